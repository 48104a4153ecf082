"""Hooks: a job that is stored in the transaction that writes another one's end."""

from __future__ import annotations

import pytest

from queuectl.config import Config
from queuectl.db.hooks import PRIORITY, hooks_of
from queuectl.job import JobFilter
from tests.store.build import (
    T0,
    bring_to,
    cancelled,
    claim_ids,
    completed,
    counters,
    dead,
    failed,
    recount,
    snapshot,
    spec,
    specs,
    stopped,
)

BOTH = hooks_of(Config({"on_completed": "./celebrate", "on_dead": "./mourn", "max_retries": "7"}))
ON_DEAD = hooks_of(Config({"on_dead": "./mourn"}))


def hooks_in(store):
    """Return the hooks that were stored, oldest first."""
    return [job for job in store.jobs(JobFilter()) if job.id.startswith("hook-")]


def end(store, how, hooks=BOTH, **fields):
    """Enqueue a job, claim and end it, with *hooks*; return (its claim, the answer)."""
    store.add([spec(priority=2**31 - 1, **fields)], T0)
    [claim] = store.claim("w1", 1, (), T0)
    return claim, store.finish("w1", [how(claim, T0 + 3)], now=T0 + 3, hooks=hooks)


@pytest.mark.parametrize(("how", "state", "reason"), [(completed, "completed", ""), (dead, "dead", "exit 3")])
def test_an_end_brings_its_hook(store, how, state, reason):
    """It has the facts in its environment, is due at once in the queue of the job, and urgent."""
    claim, _ = end(store, how, command="make\tall", queue="build")

    [hook] = hooks_in(store)
    facts = {"ID": "job1", "STATE": state, "REASON": reason, "QUEUE": "build", "COMMAND": "make\tall"}
    command = {"completed": "./celebrate", "dead": "./mourn"}[state]
    assert {"QUEUECTL_ENDED_" + name: text for name, text in facts.items()} == hook.env
    assert (f"hook-{claim.run_id}", "build", command, [f"on_{state}"]) == (hook.id, hook.queue, hook.command, hook.tags)
    assert ("pending", T0 + 3, T0 + 3, 7, PRIORITY) == (
        hook.state, hook.run_at, hook.created_at, hook.max_retries, hook.priority,
    )  # fmt: skip
    assert [hook.id] == claim_ids(store.claim("w2", 1, (), T0 + 3))


@pytest.mark.parametrize("how", [failed, stopped, cancelled])
def test_other_ends_bring_none(store, how):
    """Neither a retry nor a stop is an end, and whoever cancels a job knows of it."""
    end(store, how)
    assert [] == hooks_in(store)


def test_without_a_setting_there_is_none(store):
    """Nothing for a state whose hook is not set, and nothing at all without hooks."""
    end(store, completed, ON_DEAD)
    end(store, dead, None)
    assert hooks_of(Config({})) is None
    assert [] == hooks_in(store)


def test_a_hook_has_no_hook(store):
    """However it ends: else one that cannot work would go on for ever."""
    end(store, dead)
    for how in (dead, completed):
        [claim] = store.claim("w1", 1, (), T0 + 5)
        assert claim.job.id.startswith("hook-")
        assert [True] == store.finish("w1", [how(claim, T0 + 5)], now=T0 + 5, hooks=BOTH).accepted
        store.retry([claim.job.id], now=T0 + 5)

    assert 1 == len(hooks_in(store))


def test_a_refused_end_brings_none(store):
    """The job was taken away from its worker: whoever ends it has the hook."""
    store.add([spec()], T0)
    [claim] = store.claim("w1", 1, (), T0)
    store.unregister("w1")
    store.release_lost("w1", 3, T0)
    assert [False] == store.finish("w1", [completed(claim)], now=T0, hooks=BOTH).accepted
    assert [] == hooks_in(store)


def test_a_job_that_is_lost_too_often_has_one(store):
    """It is dead; one that was lost less often runs again, and has none."""
    store.add([spec("gone", queue="q"), spec("back", queue="q")], T0)
    store.claim("w1", 1, (), T0)
    store.unregister("w1")
    released = store.release_lost("w1", 1, T0 + 4, BOTH)
    store.claim("w2", 1, (), T0 + 5)
    store.unregister("w2")

    assert [("job1", "dead")] == released
    [hook] = hooks_in(store)
    assert ("job1", "dead", "lost a run: the worker died while it ran", "gone") == tuple(
        hook.env["QUEUECTL_ENDED_" + name] for name in ("ID", "STATE", "REASON", "COMMAND")
    )
    assert (T0 + 4, "q", "./mourn") == (hook.run_at, hook.queue, hook.command)
    assert [(hook.id, "pending")] == store.release_lost("w2", 3, T0 + 6, BOTH)
    assert 1 == len(hooks_in(store))


def test_each_death_has_its_own(store):
    """A job that is sent back from the DLQ and dies again is told of again."""
    end(store, dead, max_retries=0)
    store.retry(["job1"], now=T0 + 5)
    claims = {claim.job.id: claim for claim in store.claim("w1", 2, (), T0 + 5)}
    store.finish("w1", [dead(claims["job1"], T0 + 6)], now=T0 + 6, hooks=BOTH)
    assert ["job1", "job1"] == [hook.env["QUEUECTL_ENDED_ID"] for hook in hooks_in(store)]


def test_ids_and_counters_stay_right(store):
    """Hooks use no number of the generated ids, and each queue counts them."""
    store.add([*specs(3), spec(id="job7", queue="other"), spec(queue="other")], T0)
    claims = store.claim("w1", 5, (), T0)
    store.finish("w1", [completed(claims[0]), dead(claims[1]), failed(claims[2]), dead(claims[3])], hooks=BOTH)

    assert ["job5", "job6", "job8"] == list(store.add(specs(3), T0 + 20))
    store.finish("w1", [completed(claims[4])], hooks=BOTH)
    assert ["job9"] == list(store.add(specs(1), T0 + 20))
    assert 4 == len(hooks_in(store))
    assert recount(store) == counters(store.queues())


def test_an_end_goes_on_with_a_claim(store):
    """The next job comes with the end as without hooks, and the hook before all less urgent ones."""
    store.add(specs(3), T0)
    [claim] = store.claim("w1", 1, (), T0)
    first = store.finish("w1", [completed(claim, T0)], 1, now=T0, hooks=BOTH)
    second = store.finish("w1", [completed(first.claims[0], T0)], 2, now=T0, hooks=BOTH)
    assert [[f"hook-{claim.run_id}"], ["job2", "job3"]] == [claim_ids(each.claims) for each in (first, second)]


def test_many_ends_at_once(store):
    """Each has its own, in the queue of its job, also where there are many queues and claims ahead."""
    store.add([spec(queue=f"q{number % 12}") for number in range(60)], T0)
    claims = store.claim("w1", 60, (), T0)
    answer = store.finish("w1", [dead(claim, T0) for claim in claims], 4, now=T0, ahead=8, hooks=BOTH)

    hooks = hooks_in(store)
    assert sorted((claim.job.id, claim.job.queue) for claim in claims) == sorted(
        (hook.env["QUEUECTL_ENDED_ID"], hook.queue) for hook in hooks
    )
    assert {hook.id for hook in hooks} >= set(claim_ids(answer.claims))
    assert 4 <= len(answer.claims) <= 12
    assert recount(store) == counters(store.queues())


def test_what_is_told_is_cut_and_legible(store):
    """A command may have 128 KiB and a variable with it no room; a NUL ends one."""
    store.add([spec("x" * 100_000)], T0)
    [claim] = store.claim("w1", 1, (), T0)
    _, its_end, verdict = dead(claim, T0)
    store.finish("w1", [(claim, its_end, verdict._replace(reason="no\0" + "y" * 5000))], now=T0, hooks=BOTH)

    [hook] = hooks_in(store)
    assert "x" * 1000 == hook.env["QUEUECTL_ENDED_COMMAND"]
    assert "no\ufffd" + "y" * 997 == hook.env["QUEUECTL_ENDED_REASON"]


def test_an_id_that_is_taken_is_no_harm(store):
    """The end counts whatever its hook's id: somebody may have given it to a job of their own."""
    store.add([spec()], T0)
    [claim] = store.claim("w1", 1, (), T0)
    store.add([spec(id=f"hook-{claim.run_id}", command="mine", queue="elsewhere")], T0)
    assert [True] == store.finish("w1", [dead(claim, T0)], now=T0, hooks=BOTH).accepted
    assert ["mine"] == [job.command for job in hooks_in(store)]
    assert recount(store) == counters(store.queues())


def test_with_the_end_or_not_at_all(store):
    """Where the hook cannot be written, the end is not either; nor is a loss."""
    store.add([spec()], T0)
    [claim] = store.claim("w1", 1, (), T0)
    config = Config({"on_completed": "true", "on_dead": "true"})
    config.max_retries = -1  # a check of the table refuses it
    before = snapshot(store)
    with pytest.raises(Exception, match="(?i)constraint"):
        store.finish("w1", [completed(claim)], now=T0, hooks=hooks_of(config))
    assert before == snapshot(store)
    store.unregister("w1")
    before = snapshot(store)
    with pytest.raises(Exception, match="(?i)constraint"):
        store.release_lost("w1", 1, T0, hooks_of(config))
    assert before == snapshot(store)
    assert [("job1", "dead")] == store.release_lost("w1", 1, T0, BOTH)
    assert 1 == len(hooks_in(store))


def test_a_waiting_job_still_goes(store):
    """What waited for the job is let go, beside the hook."""
    bring_to(store, "pending", "first")
    store.add([spec(id="second", after=["first"])], T0)
    [claim] = store.claim("w1", 1, (), T0)
    store.finish("w1", [completed(claim, T0)], now=T0, hooks=BOTH)
    assert [f"hook-{claim.run_id}", "second"] == claim_ids(store.claim("w1", 9, (), T0))


@pytest.mark.parametrize("limited", [False, True])
def test_claims_ahead_go_on(store, limited):
    """Beside hooks as without them: from a queue with a limit none is claimed ahead."""
    store.add(specs(400), T0)
    if limited:
        store.set_limit("default", 50)
    [claim] = store.claim("w1", 1, (), T0)
    claims = store.finish("w1", [completed(claim, T0)], 1, now=T0, ahead=7, hooks=BOTH).claims
    assert (1 if limited else 8) == len(claims)
    assert f"hook-{claim.run_id}" == claims[0].job.id


def test_the_last_jobs_are_not_claimed_ahead(store):
    """They are left to whoever is idle, hooks among them."""
    store.add(specs(3), T0)
    [claim] = store.claim("w1", 1, (), T0)
    claims = store.finish("w1", [completed(claim, T0)], 1, now=T0, ahead=7, hooks=BOTH).claims
    assert [f"hook-{claim.run_id}"] == claim_ids(claims)
    assert {"processing": 1, "pending": 2, "completed": 1} == {state: n for (_, state), n in recount(store).items()}
