"""``queuectl logs``: a run's output, byte for byte."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest


@pytest.mark.posix("its command is written for a POSIX shell")
def test_bytes_pass_as_they_are(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """Colours, NUL, bytes that are no text; both streams in order; no line end is added."""
    add(r"printf 'a\000\033[31mb\377\n'; printf 'err' >&2; printf 'last'")
    drain()

    assert (b"a\0\x1b[31mb\xff\nerrlast", b"", 0) == cli("logs", "job1", binary=True)


def test_a_job_that_has_not_run(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Nothing, and that is no error."""
    add("true")

    assert ("", "", 0) == cli("logs", "job1")


@pytest.mark.posix("its command is written for a POSIX shell")
def test_each_run_has_its_own(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """The last one is shown unless another is asked for."""
    add("echo run $QUEUECTL_ATTEMPT; exit 1", "--max-retries", "1", "--backoff-base", "1")
    drain()

    assert "run 2\n" == cli("logs", "job1", code=0).out
    assert "run 1\n" == cli("logs", "job1", "--run", "1", code=0).out
    assert cli("logs", "job1", "--run", "3") == (
        "", "queuectl: job1 has had 2 runs; there is no run 3.\n", 1,
    )  # fmt: skip
    assert cli("logs", "job1", "--run", "0").code == 2
    assert {"id": "job1", "run": 2, "output": "run 2\n"} == json.loads(cli("logs", "job1", "--json").out)


@pytest.mark.posix("its command is written for a POSIX shell")
def test_the_last_lines(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """Of the last run or of another; a last line without an end is one; also more than is read at first."""
    add("seq 30000; exit 1", "--max-retries", "1", "--backoff-base", "1")
    add("printf 'one\\ntwo\\nthree'")
    drain()
    all_lines = [f"{number}\n" for number in range(1, 30001)]

    for run in ([], ["--run", "1"]):
        for count in (0, 1, 2, 20000, 30000, 30001):
            expected = "".join(all_lines[len(all_lines) - count if count < 30000 else 0 :])
            assert (expected, "", 0) == cli("logs", "job1", "--tail", str(count), *run)
    assert "two\nthree" == cli("logs", "job2", "--tail=2", code=0).out
    assert "three" == json.loads(cli("logs", "job2", "--tail=1", "--json").out)["output"]
    assert 2 == cli("logs", "job2", "--tail", "-1").code


def test_an_unknown_job(cli: Callable[..., Any]) -> None:
    """Followed or not."""
    assert 1 == cli("logs", "job9").code
    assert 1 == cli("logs", "job9", "-f").code
    assert 2 == cli("logs", "job1", "-f", "--json").code


@pytest.mark.posix("its command is written for a POSIX shell")
def test_following_to_the_end(
    add: Callable[..., str], worker: Callable[..., Any], background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """From before the run begins, as it writes, until it ends."""
    add("echo first; while [ ! -e go ]; do sleep 0.02; done; echo second")
    follower = background("logs", "-f", "job1")
    with worker():
        eventually(lambda: follower.out == "first\n", what="the first line")
        assert follower.running
        open("go", "w").close()
        result = follower.wait()

    assert ("first\nsecond\n", 0) == (result.out, result.code)


@pytest.mark.posix("its command is written for a POSIX shell")
def test_following_from_the_last_lines_on(
    add: Callable[..., str], worker: Callable[..., Any], background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """What the first run has printed so far is cut to them; what comes then, and the next run, is shown whole."""
    add(
        "echo one; echo two; while [ ! -e go ]; do sleep 0.02; done; echo three; echo four; "
        "[ $QUEUECTL_ATTEMPT = 2 ] || exit 1",
        "--backoff-base", "1",
    )  # fmt: skip
    whole = background("logs", "-f", "job1")
    with worker():
        eventually(lambda: whole.out == "one\ntwo\n", what="the first lines")
        follower = background("logs", "-f", "--tail", "1", "job1")
        eventually(lambda: follower.out == "two\n", what="the last line so far")
        open("go", "w").close()
        result = follower.wait()

    assert ("two\nthree\nfour\none\ntwo\nthree\nfour\n", 0) == (result.out, result.code)


@pytest.mark.posix("its command is written for a POSIX shell")
def test_following_over_retries(
    cli: Callable[..., Any],
    add: Callable[..., str],
    worker: Callable[..., Any],
    background: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    """A job that waits for its retry has not ended; ``--run`` asks for one run alone, ``-q`` for the output alone."""
    add("echo $QUEUECTL_ATTEMPT; [ $QUEUECTL_ATTEMPT = 2 ] || exit 3", "--backoff-base", "3600")
    with worker():
        followers = [background(*words, "logs", "-f", "job1") for words in ([], ["-q"])]
        eventually(lambda: "retry 1 of 3 in" in followers[0].err, what="a word about the retry")
        eventually(lambda: followers[1].out == "1\n", what="the first run's output")
        assert ("1\n", "", 0) == cli("logs", "-f", "job1", "--run", "1")
        assert all(follower.running for follower in followers)
        cli("edit", "job1", "delay=0", code=0)
        told, silent = [follower.wait() for follower in followers]

    assert ("1\n2\n", 0) == (told.out, told.code)
    assert "queuectl: job1 failed (exit 3), retry 1 of 3 in" in told.err
    assert ("1\n2\n", "", 0) == silent
    assert ("2\n", "", 0) == cli("logs", "-f", "job1")


def test_following_what_nobody_runs(
    cli: Callable[..., Any], add: Callable[..., str], background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """It says so, once, with what to type, as ``run`` does."""
    add("true")
    follower = background("logs", "-f", "job1")
    eventually(lambda: follower.err, what="a word")
    cli("cancel", "job1", code=0)

    said = "queuectl: no live worker serves queue default, so job1 is waiting. Start one: queuectl worker start\n"
    assert ("", said, 0) == follower.wait()


def test_following_what_nobody_retries(
    cli: Callable[..., Any],
    add: Callable[..., str],
    worker: Callable[..., Any],
    background: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    """A job whose retry is due waits for a worker, too; one whose retry is not due waits for its time."""
    add("exit 3", "--backoff-base", "3600")
    with worker() as group:
        eventually(lambda: "retry 1 of 3" in group.out)
    followers = [background("logs", "-f", "job1"), background("wait", "job1")]
    eventually(lambda: "retry 1 of 3 in" in followers[0].err)
    cli("edit", "job1", "delay=0", code=0)
    said = "queuectl: no live worker serves queue default, so job1 is waiting. Start one: queuectl worker start\n"
    eventually(lambda: all(follower.err.endswith(said) for follower in followers))
    cli("cancel", "job1", code=0)

    assert followers[0].wait().err.count("\n") == 2
    assert followers[1].wait().err == said


def test_following_what_is_over(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """Prints it and ends; also a job that was cancelled before it ran."""
    add("echo done")
    drain()
    add("true")
    cli("cancel", "job2", code=0)

    assert ("done\n", "", 0) == cli("logs", "-f", "job1")
    assert ("", "", 0) == cli("logs", "-f", "job2")


@pytest.mark.posix("its command is written for a POSIX shell")
def test_a_cut_is_marked(cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any]) -> None:
    """The first and the last half of the limit are kept, and a line says what was left out."""
    cli("config", "set", "output_limit", "1000", code=0)
    add("printf 'A%.0s' $(seq 5000); printf 'Z%.0s' $(seq 5000)")
    drain()

    out = cli("logs", "job1", code=0).out

    assert out.startswith("AAAA")
    assert out.endswith("ZZZZ")
    assert "\n[queuectl: 9000 bytes were cut here]\n" in out
