"""The oracle: what the store promises, as a few plain Python rules over dictionaries.

It is written from the contract, not from any engine: no SQL, no indexes, no counters. Every verb
changes the model and returns what the store has to answer, or raises what it has to raise.
"""

from __future__ import annotations

from queuectl.errors import InvalidJob, JobExists, JobNotFound, NotInDlq, WrongState
from queuectl.job import ENDED, WAITING, Outcome
from queuectl.jobspec import JobSpec

RETRIABLE = ("failed", *ENDED)
COSTLY = (Outcome.FAILED, Outcome.TIMED_OUT)


class ModelJob:
    """A job as it must be; attributes are those of ``queuectl.job.Job`` that the rules speak of."""

    FIELDS = (
        "id", "queue", "state", "priority", "run_at", "max_retries", "attempts", "failures", "losses",
        "run_no", "run_id", "worker_id", "cancel_requested", "created_at", "ended_at", "after", "held",
    )  # fmt: skip

    def __init__(self, spec, job_id, arrival, now):
        self.id = job_id
        self.arrival = arrival
        self.queue = spec.queue
        self.state = "pending"
        self.priority = spec.priority
        self.run_at = now + spec.delay_s if spec.delay_s is not None else now
        self.max_retries = 3 if spec.max_retries is None else spec.max_retries
        self.attempts = self.failures = self.losses = self.run_no = 0
        self.run_id = self.worker_id = self.ended_at = None
        self.cancel_requested = False
        self.created_at = now
        self.runs = []  # [run id, outcome] each, first to last
        self.after = list(spec.after or ())
        self.needs = set()  # the arrivals of jobs that have to complete before
        self.is_hook = False

    @property
    def held(self):
        """Whether it waits for others."""
        return self.state in WAITING and bool(self.needs)

    def urgency(self):
        """Return the key by which claims are ordered."""
        return -self.priority, self.run_at, self.arrival

    def leave(self, outcome):
        """Take the running run away; it ended as *outcome*."""
        assert self.state == "processing"
        assert self.runs[-1] == [self.run_id, Outcome.RUNNING]
        self.runs[-1][1] = outcome
        self.run_id = self.worker_id = None
        self.cancel_requested = False

    def become(self, state, now=None):
        """Enter *state*; one that is an end has the time *now*."""
        self.state = state
        self.ended_at = now if state in ENDED else None

    def facts(self):
        """Return all fields that the store must show."""
        return {name: getattr(self, name) for name in self.FIELDS}


class Model:
    """The whole store."""

    def __init__(self):
        self.alive = {}  # worker id: state, "alive" or "lost"
        self.mono = {}
        self.last_run_id = 0
        self.accepted = {}  # run id: how often an end was accepted, over all resets
        self.output = {}  # run id: bytes
        self.reset()

    def reset(self):
        """Forget all but workers and the run ids that were given out."""
        self.jobs = {}
        self.arrivals = 0
        self.next_number = 1
        self.spent = set()  # numbers N of all jobN that ever were
        self.paused = set()
        self.limits = {}
        self.output = {}

    # -- jobs come in -------------------------------------------------------------------------

    def add(self, specs, now):
        """Return the ids that the new jobs have to get."""
        given = [spec.id for spec in specs if spec.id is not None]
        numbers = [int(job_id[3:]) for job_id in given if job_id.startswith("job")]
        if len(set(given)) < len(given) or self.jobs.keys() & given or self.spent & set(numbers):
            raise JobExists("one of them")
        known = set(self.jobs)
        for spec in specs:
            if not known.issuperset(spec.after or ()):
                raise InvalidJob("there is no such job")
            known.update(filter(None, [spec.id]))
        self.spent.update(numbers)
        ids = []
        for spec in specs:
            job_id = spec.id
            if job_id is None:
                while self.next_number in self.spent:
                    self.next_number += 1
                job_id = f"job{self.next_number}"
                self.spent.add(self.next_number)
            self.arrivals += 1
            self.jobs[job_id] = ModelJob(spec, job_id, self.arrivals, now)
            self.jobs[job_id].needs = self._open(spec.after or ())
            ids.append(job_id)
        return ids

    def _open(self, job_ids):
        """Return the arrivals of those jobs that have not completed."""
        return {self.jobs[job_id].arrival for job_id in job_ids if self.jobs[job_id].state != "completed"}

    # -- runs ---------------------------------------------------------------------------------

    def room(self, queue):
        """Return how many more jobs of *queue* may be begun."""
        if queue in self.paused:
            return 0
        running = sum(job.queue == queue and job.state == "processing" for job in self.jobs.values())
        return max(self.limits[queue] - running, 0) if queue in self.limits else len(self.jobs)

    def next_claims(self, worker_id, count, queues, now, without=()):
        """Return the jobs that a claim has to give, in order."""
        if self.alive.get(worker_id) != "alive":
            return []
        chosen = []
        rooms = {job.queue: self.room(job.queue) for job in self.jobs.values()}
        for job in sorted(self.jobs.values(), key=ModelJob.urgency):
            wanted = not queues or job.queue in queues
            may_run = job.state in WAITING and job.run_at <= now and not job.held and job not in without
            if len(chosen) < count and wanted and may_run and rooms[job.queue]:
                rooms[job.queue] -= 1
                chosen.append(job)
        return chosen

    def hand_over(self, job, worker_id, run_id):
        """Begin a run of *job*; its id has to be larger than any before."""
        assert job.state in WAITING
        assert run_id > self.last_run_id
        self.last_run_id = run_id
        job.become("processing")
        job.attempts += 1
        job.run_no += 1
        job.run_id, job.worker_id = run_id, worker_id
        job.runs.append([run_id, Outcome.RUNNING])
        self.output[run_id] = b""

    def finish(self, worker_id, claim, end, verdict, now, hooks=False):
        """Return whether this end has to be accepted, and apply it; *hooks*: both are set."""
        job = self.jobs.get(claim.job.id)
        owns = job is not None and (job.run_id, job.worker_id) == (claim.run_id, worker_id)
        if not owns:
            return False
        self.accepted[claim.run_id] = self.accepted.get(claim.run_id, 0) + 1
        state = verdict.state.value
        if state in WAITING and job.cancel_requested:
            state = "cancelled"
        job.leave(end.outcome)
        job.become(state, end.ended_at)
        job.failures += end.outcome in COSTLY
        job.losses = 0
        if state in WAITING:
            job.run_at = verdict.run_at
        if state == "completed":
            self._let_go(job, now)
        if hooks:
            self._hook(job, claim.run_id, now)
        return True

    def _hook(self, job, run_id, now):
        """Add the hook of a job that has ended so; a hook has none."""
        if job.state in ("completed", "dead") and not job.is_hook:
            self.arrivals += 1
            hook = ModelJob(JobSpec("", "/", queue=job.queue, priority=1000), f"hook-{run_id}", self.arrivals, now)
            hook.is_hook = True
            self.jobs[hook.id] = hook

    def _let_go(self, completed, now):
        """Let those go that waited for this job alone."""
        for job in self.jobs.values():
            was_held = job.held
            job.needs.discard(completed.arrival)
            if was_held and not job.held:
                job.run_at = max(job.run_at, now)

    # -- workers ------------------------------------------------------------------------------

    def owned(self, worker_id):
        """Return the jobs whose runs a worker owns."""
        return [job for job in self.jobs.values() if job.worker_id == worker_id]

    def release_lost(self, worker_id, max_lost, now, hooks=False):
        """Return what becomes of the jobs of a worker: [(job id, state)]; *hooks*: both are set."""
        if self.alive.get(worker_id) == "alive":
            return []
        answer = []
        for job in self.owned(worker_id):
            asked = job.cancel_requested
            job.losses += 1
            job.leave(Outcome.LOST)
            job.become("cancelled" if asked else "dead" if job.losses >= max_lost else "pending", now)
            answer.append((job.id, job.state))
            if hooks:
                self._hook(job, job.runs[-1][0], now)
        self.alive.pop(worker_id, None)
        return answer

    def ownerless(self):
        """Return workers that own runs but are not registered."""
        return {job.worker_id for job in self.jobs.values() if job.worker_id} - self.alive.keys()

    # -- users --------------------------------------------------------------------------------

    def _named(self, job_ids, verb, allowed):
        for job_id in job_ids:
            if job_id not in self.jobs:
                raise JobNotFound(job_id)
            if self.jobs[job_id].state not in allowed:
                raise WrongState(job_id, verb, self.jobs[job_id].state, allowed)
        return [self.jobs[job_id] for job_id in job_ids]

    def cancel(self, job_ids, now):
        """Return the states after the call."""
        answer = {}
        for job in self._named(job_ids, "cancel", ("pending", "processing", "failed")):
            if job.state == "processing":
                job.cancel_requested = True
            elif job.state in WAITING:  # not if it was named before
                job.become("cancelled", now)
            answer[job.id] = job.state
        return answer

    def cancel_where(self, states, queues, now):
        """Return how many that waited were cancelled, and the ids of those that run."""
        hit = [
            job.id
            for job in self.jobs.values()
            if job.state in (*WAITING, "processing")
            and (not states or job.state in states)
            and (not queues or job.queue in queues)
        ]
        answer = self.cancel(hit, now)
        running = sorted(job_id for job_id in hit if answer[job_id] == "processing")
        return len(hit) - len(running), running

    def retry(self, job_ids, only_dead, now):
        """Start jobs over."""
        if only_dead and any(job_id not in self.jobs or self.jobs[job_id].state != "dead" for job_id in job_ids):
            raise NotInDlq("one of them")
        for job in self._named(job_ids, "retry", RETRIABLE):
            self._start_over(job, now)

    def _start_over(self, job, now):
        job.become("pending")
        job.run_at = now
        job.attempts = job.failures = job.losses = 0

    def retry_where(self, states, queues, now):
        """Return how many jobs were started over."""
        hit = [
            job
            for job in self.jobs.values()
            if job.state in RETRIABLE and (not states or job.state in states) and (not queues or job.queue in queues)
        ]
        for job in hit:
            self._start_over(job, now)
        return len(hit)

    def edit(self, job_id, changes, now):
        """Change a waiting job."""
        (job,) = self._named([job_id], "edit", WAITING)
        if changes.get("max_retries", job.failures) < job.failures:
            raise InvalidJob(job_id)
        after = changes.get("after") or []
        if not self.jobs.keys() >= set(after) or self._needs_of(self._open(after)) & {job.arrival}:
            raise InvalidJob(job_id)
        for name, value in changes.items():
            if name == "delay_s":
                job.run_at = now + value
            elif name == "after":
                was_held, job.after, job.needs = job.held, list(after), self._open(after)
                if was_held and not job.held:
                    job.run_at = max(job.run_at, now)
            else:
                setattr(job, name, value)

    def _needs_of(self, arrivals):
        """Return *arrivals* and those of all jobs that they need."""
        needed = {arrival for job in self.jobs.values() if job.arrival in arrivals for arrival in job.needs}
        return arrivals if needed <= arrivals else self._needs_of(arrivals | needed)

    def prunable(self, states, ended_before):
        """Return the ids that a prune may delete."""
        return {
            job.id
            for job in self.jobs.values()
            if job.state in ENDED and (not states or job.state in states) and job.ended_at < ended_before
        }

    def delete(self, job_id):
        """Forget a job with its runs and output."""
        for run_id, _ in self.jobs.pop(job_id).runs:
            self.output.pop(run_id, None)

    # -- looking ------------------------------------------------------------------------------

    def counts(self):
        """Return the number of jobs by (queue, state)."""
        counted = {}
        for job in self.jobs.values():
            counted[job.queue, job.state] = counted.get((job.queue, job.state), 0) + 1
        return counted

    def next_due(self, now):
        """Return when the next claimable job is due, *now* if one is; None if none waits."""
        waiting = [job for job in self.jobs.values() if job.state in WAITING and not job.held]
        times = [job.run_at for job in waiting if self.room(job.queue)]
        return max(min(times), now) if times else None

    def work_left(self):
        """Return how many jobs wait or run in queues not paused."""
        left = [job for job in self.jobs.values() if job.state not in ENDED and not job.held]
        return sum(job.queue not in self.paused for job in left)

    def oldest_due(self, now):
        """Return the earliest run_at of what is due."""
        return min(
            (job.run_at for job in self.jobs.values() if job.state in WAITING and not job.held and job.run_at <= now),
            default=None,
        )
