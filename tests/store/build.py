"""What the store tests are made of: job descriptions, workers, the ends of runs, snapshots."""

from __future__ import annotations

from queuectl.job import JobFilter, Outcome, RunEnd, State, Verdict, Worker
from queuectl.jobspec import JobSpec

#: When a test begins; every verb is given its time, so no test waits.
T0 = 1_900_000_000.0
EVERYTHING = JobFilter()


def spec(command="true", **fields):
    """Return a checked job description."""
    return JobSpec(command, "/", **fields)


def specs(count, **fields):
    """Return *count* equal job descriptions."""
    return [spec(**fields) for _ in range(count)]


def worker(worker_id, **fields):
    """Return a live worker as it would register itself."""
    plain = Worker(
        id=worker_id, role="worker", group_id="g", number=0, host="here", host_id="machine/boot", pid=4242,
        pid_started="17", queues=(), concurrency=1, started_at=T0, lease_expires_at=T0 + 30, renewed_mono_s=100.0,
    )  # fmt: skip
    return plain._replace(**fields)


def completed(claim, at=T0 + 10):
    """Return an end with exit code 0."""
    return claim, RunEnd(Outcome.COMPLETED, 0, None, None, at), Verdict(State.COMPLETED, None, None)


def failed(claim, at=T0 + 10, retry_at=None, outcome=Outcome.FAILED):
    """Return a failed end after which the job waits until *retry_at* (default: 2 s later)."""
    retry_at = at + 2 if retry_at is None else retry_at
    return claim, RunEnd(outcome, 3, None, "exit 3", at), Verdict(State.FAILED, retry_at, "exit 3", retry_at - at)


def dead(claim, at=T0 + 10):
    """Return a failed end after which the job is in the DLQ."""
    return claim, RunEnd(Outcome.FAILED, 3, None, "exit 3", at), Verdict(State.DEAD, None, "exit 3")


def stopped(claim, at=T0 + 10):
    """Return the end of a run that its worker ended in order to stop."""
    return claim, RunEnd(Outcome.STOPPED, None, 15, "stopped", at), Verdict(State.PENDING, at, None)


def cancelled(claim, at=T0 + 10):
    """Return the end of a run that its worker ended because a user asked for it."""
    verdict = Verdict(State.CANCELLED, None, "cancelled while it ran")
    return claim, RunEnd(Outcome.CANCELLED, None, 15, "cancelled", at), verdict


def claim_ids(claims):
    """Return the ids of claimed jobs, in order."""
    return [claim.job.id for claim in claims]


def drain(store, worker_id="w1", now=T0, queues=()):
    """Claim all that is due, one at a time, without finishing; return the ids in the order they came."""
    ids = []
    while True:
        claims = store.claim(worker_id, 1, queues, now)
        if not claims:
            return ids
        ids += claim_ids(claims)


def bring_to(store, state, job_id=None, worker_id="w1", now=T0, **fields):
    """Add one job and bring it to *state* by the store's own verbs; return its id."""
    # What has to be claimed on its way is more urgent than all that waits.
    to_claim = state not in ("pending", "cancelled")
    job_id = store.add([spec(id=job_id, priority=to_claim * (2**31 - 1), **fields)], now)[0]
    if state == "pending":
        return job_id
    if state == "cancelled":
        store.cancel([job_id], now)
        return job_id
    claim = store.claim(worker_id, 1, (), now)[0]
    assert job_id == claim.job.id
    ends = {"completed": completed, "failed": failed, "dead": dead}
    if state in ends:
        accepted = store.finish(worker_id, [ends[state](claim, now)], now=now).accepted
        assert [True] == accepted
    return job_id


def snapshot(store):
    """Return all that a refused verb must leave as it was: jobs, runs, queues, settings."""
    jobs = store.jobs(EVERYTHING)
    runs = [store.runs(job.id) for job in jobs]
    return jobs, runs, store.queues(), store.settings(), store.workers()


def recount(store):
    """Return the number of jobs by (queue, state), counted one by one."""
    counts = {}
    for job in store.jobs(EVERYTHING, limit=100_000):
        counts[job.queue, job.state] = counts.get((job.queue, job.state), 0) + 1
    return counts


def counters(queues):
    """Return the number of jobs by (queue, state), as *queues* have it; zeros left out."""
    states = ("pending", "processing", "failed", "completed", "dead", "cancelled")
    counted = {(queue.name, state): getattr(queue, state) for queue in queues for state in states}
    return {key: count for key, count in counted.items() if count}
