"""``queuectl retry``: run jobs again."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List

import pytest


def test_ended_jobs_start_over(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any], job: Callable[[str], Dict[str, Any]]
) -> None:
    """Completed, dead and cancelled ones; the history of runs stays and goes on."""
    add("true")
    add("exit 1", "--max-retries", "0")
    add("true", "--delay", "1h")
    cli("cancel", "job3", code=0)
    drain()

    result = cli("retry", "job1", "job2", "job3")

    assert ("Retried job1\nRetried job2\nRetried job3\n", "", 0) == result
    for job_id in ("job1", "job2", "job3"):
        found = job(job_id)
        assert (found["state"], found["attempts"], found["failures"], found["reason"]) == ("pending", 0, 0, None)
    drain()
    assert [1, 2] == [run["number"] for run in job("job1")["runs"]]


@pytest.mark.posix("its command is written for a POSIX shell")
def test_a_job_that_waits_for_its_retry(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Is due now."""
    add("[ -e go ]", "--backoff-base", "1000")
    with worker() as group:
        eventually(lambda: "retry 1 of 3" in group.out)
        open("go", "w").close()
        cli("retry", "job1", code=0)

        assert cli("wait", "job1", "--timeout", "20").code == 0


def test_all_or_none(cli: Callable[..., Any], add: Callable[..., str], jobs: Callable[..., List[Any]]) -> None:
    """A pending job is not retried, it runs anyway."""
    add("true")
    add("true")
    cli("cancel", "job1", code=0)

    assert cli("retry", "job1", "job2") == (
        "", "queuectl: cannot retry job2: it is pending, not completed, dead, cancelled or failed.\n", 1,
    )  # fmt: skip
    assert cli("retry", "job1", "job9").code == 1
    assert "cancelled" == jobs()[0]["state"]


def test_by_filter(cli: Callable[..., Any], add: Callable[..., str], jobs: Callable[..., List[Any]]) -> None:
    """All that match and have ended or failed; none is no error."""
    add("true", "--queue", "mail")
    add("true", "--tag", "a")
    add("true")
    cli("cancel", "job1", "job2", "job3", code=0)

    assert ("Retried 1 job\n", "", 0) == cli("retry", "--state", "cancelled", "--queue", "mail")
    assert ("No jobs to retry.\n", "", 0) == cli("retry", "--state", "dead")
    assert {"retried": 2} == json.loads(cli("retry", "--json", "--state", "cancelled").out)
    assert {"pending"} == {found["state"] for found in jobs()}


@pytest.mark.parametrize("words", [["--queue", "mail"], ["--tag", "a"]], ids=" ".join)
def test_completed_jobs_run_again_only_if_their_state_is_named(
    cli: Callable[..., Any], add: Callable[..., str], jobs: Callable[..., List[Any]], words: List[str]
) -> None:
    """Whoever tries again what failed, of all that has a tag, does not want the rest of it to be done twice."""
    add("true", "--queue", "mail", "--tag", "a")
    cli("worker", "start", "--drain", code=0)

    refused = cli("retry", *words)

    assert ("", 2) == (refused.out, refused.code)
    assert refused.err == (
        "queuectl: retry by filter needs the states, or completed jobs would run again, too: "
        "add --state dead, or --state dead --state failed.\n"
    )
    assert "completed" == jobs()[0]["state"]
    assert ("Retried 1 job\n", "", 0) == cli("retry", "--state", "completed", *words)


@pytest.mark.parametrize(
    "words", [[], ["job1", "--state", "dead"], ["--state", "ded"], ["--all"], ["--state", "pending"]]
)
def test_wrong_usage(cli: Callable[..., Any], words: List[str]) -> None:
    """Ids or filters, one of the two."""
    assert cli("retry", *words).code == 2


@pytest.mark.parametrize("state", ["pending", "processing"])
def test_a_state_that_cannot_be_retried_is_refused(
    cli: Callable[..., Any], add: Callable[..., str], state: str
) -> None:
    """Not "No jobs to retry": there may be some, and none of them will ever be retried like that; as ``prune`` does."""
    add("true")

    result = cli("retry", "--state", "dead", "--state", state)

    told = "retry takes jobs that have ended or failed (completed, dead, cancelled, failed)"
    assert result == ("", f"queuectl: {told}, not {state} ones.\n", 2)
