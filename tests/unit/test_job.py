"""What a finished run does to its job, and a job as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.clock import iso_utc
from queuectl.config import Config
from queuectl.job import ENDED, STATES, WAITING, Job, Outcome, RunEnd, State, Verdict, job_json, settle

NOW = 1_900_000_000.0
CONFIG = Config({})
ENDS = tuple(outcome for outcome in Outcome if outcome not in (Outcome.RUNNING, Outcome.LOST))
COSTLY = (Outcome.FAILED, Outcome.TIMED_OUT)

PLAIN = Job(
    seq=1, id="job1", queue="default", state="processing", priority=0, run_at=NOW, command="true", cwd="/",
    env_json=None, tags_json=None, timeout_s=None, backoff_base=None, max_retries=3, attempts=1, failures=0,
    losses=0, run_no=1, run_id=1, worker_id="w", cancel_requested=False, created_at=NOW, updated_at=NOW,
    ended_at=None, reason=None,
)  # fmt: skip


def job(**fields):
    """Return a job that a worker runs, with these fields."""
    return PLAIN._replace(**fields)


def end(outcome, reason="exit 3"):
    """Return the end of a run."""
    return RunEnd(outcome, 0 if outcome is Outcome.COMPLETED else 3, None, reason, NOW)


# -- settle -----------------------------------------------------------------------------------


def test_a_completed_run_completes_its_job():
    """Exit code 0 ends the job, whatever happened before."""
    actual = settle(job(failures=3, max_retries=3), end(Outcome.COMPLETED), CONFIG, NOW)

    assert Verdict(State.COMPLETED, None, None) == actual


@pytest.mark.parametrize("outcome", COSTLY)
def test_a_failed_run_waits_for_its_retry(outcome):
    """The job is failed with the run's reason, and due after base ^ failures seconds."""
    actual = settle(job(failures=1), end(outcome), CONFIG, NOW)

    assert Verdict(State.FAILED, NOW + 4.0, "exit 3", 4.0) == actual


@pytest.mark.parametrize("outcome", COSTLY)
def test_the_failure_beyond_the_last_retry_is_the_end(outcome):
    """The failed run that exceeds max_retries moves the job to the DLQ, with the reason."""
    actual = settle(job(failures=3, max_retries=3), end(outcome), CONFIG, NOW)

    assert Verdict(State.DEAD, None, "exit 3") == actual


def test_without_retries_the_first_failure_is_the_end():
    """max_retries 0 means exactly one run."""
    actual = settle(job(max_retries=0), end(Outcome.FAILED), CONFIG, NOW)

    assert State.DEAD is actual.state


def test_a_stopped_run_costs_nothing():
    """A run that its worker ended to stop makes its job pending and due at once."""
    actual = settle(job(failures=3, max_retries=3), end(Outcome.STOPPED), CONFIG, NOW)

    assert Verdict(State.PENDING, NOW, None) == actual


def test_a_cancelled_run_cancels_its_job():
    """A cancelled job says when it was cancelled: while it ran."""
    actual = settle(job(), end(Outcome.CANCELLED), CONFIG, NOW)

    assert Verdict(State.CANCELLED, None, "cancelled while it ran") == actual


def test_a_job_that_has_its_own_base_uses_it():
    """The job's backoff_base comes before the setting's."""
    actual = settle(job(backoff_base=10.0), end(Outcome.FAILED), Config({"backoff_base": "3"}), NOW)

    assert 10.0 == actual.delay_s


def test_a_job_without_a_base_uses_the_setting_of_this_moment():
    """backoff_base is read when the run fails."""
    actual = settle(job(), end(Outcome.FAILED), Config({"backoff_base": "3"}), NOW)

    assert 3.0 == actual.delay_s


def test_the_delay_is_capped_and_jittered_by_the_settings():
    """backoff_max bounds the delay and backoff_jitter comes on top."""
    config = Config({"backoff_max": "10", "backoff_jitter": "40%"})

    actual = settle(job(failures=20, max_retries=99), end(Outcome.FAILED), config, NOW, random=0.5)

    assert 12.0 == actual.delay_s


@given(st.integers(0, 50), st.sampled_from(COSTLY))
def test_n_retries_are_n_plus_one_runs(max_retries, outcome):
    """A job whose every run fails runs max_retries + 1 times."""
    current = job(max_retries=max_retries)
    runs = 0

    while True:
        runs += 1
        verdict = settle(current, end(outcome), CONFIG, NOW)
        if verdict.state is not State.FAILED:
            break
        current = current._replace(failures=current.failures + 1)

    assert (max_retries + 1, State.DEAD) == (runs, verdict.state)


@given(
    outcome=st.sampled_from(ENDS),
    failures=st.integers(0, 2**31 - 1),
    max_retries=st.integers(0, 2**31 - 1),
    losses=st.integers(0, 5),
    base=st.none() | st.floats(1, 1e308),
    random=st.floats(0, 1, exclude_max=True),
)
def test_no_verdict_breaks_the_rules(outcome, failures, max_retries, losses, base, random):
    """FAILED only while retries are left; a time exactly for states that wait, never in the past."""
    config = Config({"backoff_jitter": "0.7"})
    before = job(failures=failures, max_retries=max_retries, losses=losses, backoff_base=base)

    verdict = settle(before, end(outcome), config, NOW, random)

    assert (verdict.state is State.FAILED) == (outcome in COSTLY and failures < max_retries)
    assert (verdict.state is State.DEAD) == (outcome in COSTLY and failures >= max_retries)
    assert (verdict.run_at is not None) == (verdict.state.value in WAITING)
    assert verdict.run_at is None or NOW <= verdict.run_at <= NOW + config.backoff_max * (1 + config.backoff_jitter)
    assert verdict.state is not State.PROCESSING


# -- words and JSON ---------------------------------------------------------------------------


def test_the_states_are_those_of_the_contract():
    """Each state either waits, runs or has ended."""
    assert ("pending", "processing", "failed", "completed", "dead", "cancelled") == STATES
    assert {*WAITING, *ENDED, "processing"} == set(STATES)


@pytest.mark.parametrize("word", [*State, *Outcome])
def test_a_state_is_its_word(word):
    """In text and in comparisons a state is the plain word, on every Python."""
    assert word.value == str(word) == f"{word}" == word


def test_a_job_as_json_has_its_fields_by_their_public_names():
    """Instants are ISO 8601 in UTC, env and tags are values, and what is not set is null."""
    actual = job_json(
        job(
            env_json='{"A": "1"}', tags_json='["t"]', timeout_s=1.5, backoff_base=3.0, priority=5, failures=1,
            attempts=2, losses=1, cancel_requested=1, after_json='["job0"]', held=True,
        )
    )  # fmt: skip

    assert {
        "id": "job1", "state": "processing", "command": "true", "queue": "default", "priority": 5, "attempts": 2,
        "failures": 1, "losses": 1, "max_retries": 3, "backoff_base": 3.0, "timeout": 1.5, "run_at": iso_utc(NOW),
        "cwd": "/", "env": {"A": "1"}, "tags": ["t"], "after": ["job0"], "held": True, "cancel_requested": True,
        "created_at": iso_utc(NOW), "updated_at": iso_utc(NOW), "ended_at": None, "reason": None,
    } == actual  # fmt: skip


def test_a_job_without_environment_and_tags_has_empty_ones():
    """Absent is empty, so that a reader needs no special case."""
    assert ({}, [], []) == (job().env, job().tags, job().after)


@given(st.text(st.characters(blacklist_categories=["Cs"])), st.floats(0, 7e9), st.none() | st.floats(0, 7e9))
def test_every_job_is_one_line_of_json(command, run_at, ended_at):
    """Whatever its command, a job as JSON is one line that reads back."""
    value = job_json(job(command=command, run_at=run_at, ended_at=ended_at))

    text = json.dumps(value)

    assert "\n" not in text
    assert value == json.loads(text)
