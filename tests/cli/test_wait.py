"""``queuectl wait``: until jobs have ended."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any, Callable

import pytest


def test_all_completed(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """Exit code 0, a line for each, in the order of the command line."""
    add("true")
    add("true")
    drain()

    assert ("job2 completed\njob1 completed\n", "", 0) == cli("wait", "job2", "job1")
    assert ("", "", 0) == cli("wait", "-q", "job1")


def test_some_did_not(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """Exit code 1; dead ones say why."""
    add("true")
    add("exit 3", "--max-retries", "0")
    add("true", "--delay", "1h")
    cli("cancel", "job3", code=0)
    drain()

    assert cli("wait", "job1", "job2", "job3") == (
        "job1 completed\njob2 dead (exit 3)\njob3 cancelled (cancelled while it waited)\n", "", 1,
    )  # fmt: skip
    assert ["completed", "dead"] == [job["state"] for job in json.loads(cli("wait", "--json", "job1", "job2").out)]


def test_filters_choose_among_the_jobs_that_have_not_ended(
    cli: Callable[..., Any],
    add: Callable[..., str],
    drain: Callable[..., Any],
    background: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    """A failure of long ago is none of them; where nothing is left, there is nothing to wait for."""
    add("exit 3", "--max-retries", "0")
    drain()
    assert ("", "", 0) == cli("wait", "--all")
    add("true", "--queue", "mail")
    add("true", "--queue", "mail", "--tag", "nightly")
    add("exit 4", "--max-retries", "0")

    waiting = [
        background("wait", *words) for words in (["--queue", "mail"], ["--tag", "nightly"], ["--all", "--tag", "none"])
    ]
    left = cli("wait", "--all", "--timeout", "0")
    all_of_them = background("wait", "--all", "--timeout", "30")
    for each in [*waiting[:2], all_of_them]:
        eventually(lambda each=each: "no live worker serves queue" in each.err)  # so it knows which jobs there are
    drain()

    assert ("", "queuectl: job2, job3, job4 had not ended after 0 s.\n", 124) == left
    assert ["job2 completed\njob3 completed\n", "job3 completed\n", ""] == [each.wait().out for each in waiting]
    told = all_of_them.wait()
    assert ("job2 completed\njob3 completed\njob4 dead (exit 4)\n", 1) == (told.out, told.code)


FIRST = "queuectl: job1, job2, job3, job4, job5 and"


def test_of_very_many_jobs_it_reads_as_many_as_it_has_time_for(cli: Callable[..., Any], tmp_path: Any) -> None:
    """It names the first, and says that there are more."""
    tmp_path.joinpath("jobs").write_text("true\n" * 12000)
    cli("enqueue", "--lines", "--file", str(tmp_path / "jobs"), code=0)

    told = cli("wait", "--all", "--timeout", "0", code=124)

    assert ("", f"{FIRST} at least 4995 more had not ended after 0 s.\n") == (told.out, told.err)


@pytest.mark.posix("a command line on Windows has 32767 characters at most")
def test_of_very_many_jobs_that_were_named_too(cli: Callable[..., Any], tmp_path: Any) -> None:
    """Those that it has not read may have ended."""
    tmp_path.joinpath("jobs").write_text("true\n" * 12000)
    cli("enqueue", "--lines", "--file", str(tmp_path / "jobs"), code=0)

    told = cli("wait", "--timeout", "0", *[f"job{n}" for n in range(1, 12001)], code=124)

    assert ("", f"{FIRST} up to 11995 more had not ended after 0 s.\n") == (told.out, told.err)


def test_it_takes_ids_or_filters(cli: Callable[..., Any]) -> None:
    """Which are meant would not be known."""
    assert "wait needs ids or filters, such as: queuectl wait job1, or" in cli("wait", code=2).err
    assert "wait needs ids or filters, not both." in cli("wait", "job1", "--all", code=2).err


@pytest.mark.posix("its command is written for a POSIX shell")
def test_a_job_that_waits_for_all_does_not_wait_for_itself(
    cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """The last job of a night may be the one that sees to the others' end."""
    add("true", "--delay", "1h")
    add(f"{shlex.quote(sys.executable)} -m queuectl wait --all --timeout 0; true")
    with worker():
        assert 0 == cli("wait", "job2", "--timeout", "20").code

    assert "queuectl: job1 had not ended after 0 s.\n" == cli("logs", "job2").out


def test_a_timeout_is_124(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """And says who is left."""
    add("true")
    add("true")
    cli("cancel", "job1", code=0)

    assert ("", "queuectl: job2 had not ended after 0.1 s.\n", 124) == cli("wait", "job1", "job2", "--timeout", "0.1")
    assert cli("wait", "job2", "--timeout", "0").code == 124
    assert cli("wait", "job2", "--timeout", "soon").code == 2


def test_an_unknown_job_is_no_reason_to_wait(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Exit code 1 at once, also beside one that still runs."""
    add("true")

    assert ("", "queuectl: Job not found: job9. 'queuectl list' shows the ids.\n", 1) == cli("wait", "job1", "job9")


@pytest.mark.posix("its command is written for a POSIX shell")
def test_it_wakes_when_the_last_one_ends(
    add: Callable[..., str], worker: Callable[..., Any], background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Through retries, until the state is final."""
    add("[ -e go ]", "--max-retries", "100", "--backoff-base", "1")
    waiting = background("wait", "job1")
    with worker() as group:
        eventually(lambda: "retry 1 of 100" in group.out)
        assert waiting.running
        open("go", "w").close()

        assert ("job1 completed\n", "", 0) == waiting.wait()


def test_what_keeps_the_jobs_waiting_is_told_once(
    background: Callable[..., Any],
    cli: Callable[..., Any],
    add: Callable[..., str],
    worker: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    """As ``run`` and ``logs -f`` do: else nobody knows that it waits for ever. Of a job that is not due, nothing."""
    cli("queue", "pause", "mail", code=0)
    for words in (["--queue", "mail"], ["--delay", "1h", "--queue", "later"], ["--queue", "fast"], []):
        add("true", *words)
    with worker("--queue", "mail", "--queue", "fast"):
        waiting = background("wait", "job1", "job2", "job3", "job4")
        quiet = background("wait", "-q", "job4")
        eventually(lambda: waiting.err.count("\n") == 2)
        assert sorted(waiting.err.splitlines()) == [
            "queuectl: no live worker serves queue default, so job4 is waiting. Start one: queuectl worker start",
            "queuectl: queue mail is paused, so job1 is waiting. Resume it: queuectl queue resume mail",
        ]
        cli("cancel", "job1", "job2", "job4", code=0)

        assert (waiting.wait().code, waiting.err.count("\n")) == (1, 2)
        assert ("", 1) == (quiet.wait().err, quiet.wait().code)
