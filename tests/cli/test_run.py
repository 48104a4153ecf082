"""``queuectl run``: enqueue, follow, and exit as the command did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any, Callable, List

import pytest

from queuectl import Queue
from queuectl.cli_commands import waiting as waits

POSIX = pytest.mark.posix


@pytest.mark.posix("its command is written for a POSIX shell")
def test_output_and_exit_code_are_the_commands(cli: Callable[..., Any], worker: Callable[..., Any]) -> None:
    """Both streams arrive on standard output, byte for byte."""
    with worker():
        good = cli("run", "--command", "printf 'a\\377'; echo b >&2", binary=True)
        bad = cli("run", "--max-retries", "0", "--", "sh", "-c", "echo no; exit 7")

    assert (b"a\xffb\n", b"", 0) == good
    assert ("no\n", "queuectl: job2 is dead (exit 7) after 1 run.\n", 7) == bad


@POSIX
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--timeout", "0.2", "--", "sleep", "60"], 124, "is dead (timed out after 0.2 s)"),
        (["--command", "kill -KILL $$"], 137, "is dead (signal KILL)"),
        (["--command", "kill -TERM $$"], 143, "is dead (signal TERM)"),
        (["--", "/no/such/program"], 127, "is dead (exit 127)"),
        (["--cwd", "/no/such/directory", "--", "true"], 1, "is dead ("),
    ],
)
def test_how_it_ended_is_told_by_the_exit_code(
    cli: Callable[..., Any], worker: Callable[..., Any], words: List[str], code: int, message: str
) -> None:
    """124 for a timeout, 128+N for signal N, as shells and GNU timeout say it."""
    with worker():
        result = cli("run", "--max-retries", "0", *words)

    assert result.code == code
    assert message in result.err


@pytest.mark.posix("its command is written for a POSIX shell")
def test_retries_are_followed_to_the_last_run(cli: Callable[..., Any], worker: Callable[..., Any]) -> None:
    """Each run's output is shown; what is waited for is said on standard error."""
    with worker():
        result = cli(
            "run", "--max-retries", "2", "--backoff-base", "1", "--command",
            "echo run $QUEUECTL_ATTEMPT; [ $QUEUECTL_ATTEMPT = 2 ]",
        )  # fmt: skip

    assert (result.out, result.code) == ("run 1\nrun 2\n", 0)
    assert "queuectl: job1 failed (exit 1), retry 1 of 2 in " in result.err


@pytest.mark.posix("its command is written for a POSIX shell")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "job1 lost its worker, and runs again."),
        (("--now",), "job1 was put back by a worker that stopped, and runs again."),
    ],
    ids=["killed", "stopped"],
)
def test_a_run_that_is_no_failure_is_told_of(
    background: Callable[..., Any],
    cli: Callable[..., Any],
    worker: Callable[..., Any],
    eventually: Callable[..., Any],
    words: Any,
    told: str,
) -> None:
    """Else the output just begins anew, in the middle of a line."""
    command = "printf 'begin '; [ $QUEUECTL_ATTEMPT = 2 ] || sleep 60; echo end"
    with worker():
        following = background("run", "--command", command)
        eventually(lambda: following.out)
        if words:
            cli("worker", "stop", *words, code=0)
        else:
            os.kill(json.loads(cli("worker", "list", "--json").out)[0]["pid"], signal.SIGKILL)
        with worker():
            result = following.wait()

    assert ("begin begin end\n", 0) == (result.out, result.code)
    assert f"queuectl: {told}\n" in result.err


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set as on Linux")
def test_a_run_that_could_not_be_started_is_told_of_with_its_reason(
    background: Callable[..., Any], cli: Callable[..., Any], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Its worker has not stopped: whoever is told that it has looks for the wrong thing."""
    import resource

    with worker():
        cli("run", "--", "true", code=0)  # whatever a first run reads, the worker has read
        pid = json.loads(cli("worker", "list", "--json").out)[0]["pid"]
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))  # those that it has it keeps
        following = background("run", "--", "echo", "hi")
        told = "queuectl: job2 was put back (could not start: Too many open files (ulimit -n is 3)), and runs again.\n"
        eventually(lambda: "put back" in following.err)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        result = following.wait()

    assert ("hi\n", 0) == (result.out, result.code)
    assert {told} == set(result.err.splitlines(keepends=True))


def test_without_a_worker_it_says_so_and_waits(
    background: Callable[..., Any], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """With the command to type; then it goes on by itself. A worker of another queue does not count."""
    with worker("--queue", "other"):
        waiting = background("run", "--", "echo", "hi")
        eventually(lambda: waiting.err)
        assert waiting.err == (
            "queuectl: no live worker serves queue default, so job1 is waiting. Start one: queuectl worker start\n"
        )
        with worker():
            result = waiting.wait()

    assert (result.out, result.code) == ("hi\n", 0)


def test_without_a_worker_a_paused_queue_is_told_of_too(
    background: Callable[..., Any], cli: Callable[..., Any], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Else somebody starts a worker, as told, and nothing happens."""
    cli("queue", "pause", "default", code=0)
    waiting = background("run", "--", "echo", "hi")
    eventually(lambda: waiting.err.count("\n") == 2)
    assert waiting.err == (
        "queuectl: no live worker serves queue default, so job1 is waiting. Start one: queuectl worker start\n"
        "queuectl: queue default is paused, so job1 is waiting. Resume it: queuectl queue resume default\n"
    )
    cli("queue", "resume", "default", code=0)
    with worker():
        result = waiting.wait()

    assert (result.out, result.code, result.err.count("\n")) == ("hi\n", 0, 2)


def test_a_worker_that_died_a_moment_ago_is_given_time_to_come_back(
    home: Any, add: Callable[..., str], eventually: Callable[..., Any]
) -> None:
    """Its supervisor replaces it: only who is alone for a while is told to start one."""
    job_id = add("true")
    said: List[str] = []
    with Queue() as queue:
        waiting = waits.Waiting(queue, False, said.append)
        waiting.look(queue.get(job_id))
        assert said == []

        eventually(lambda: waiting.look(queue.get(job_id)) or said)
        assert said[0].startswith("no live worker serves queue default, so job1 is waiting.")


@POSIX
def test_a_message_begins_a_line(cli: Callable[..., Any], worker: Callable[..., Any], terminal: Any) -> None:
    """Also behind output without a final newline; where they go to different places nothing is added."""
    words = ["run", "--max-retries", "1", "--backoff-base", "1", "--command", "printf half; exit 1"]
    with worker():
        shown = terminal(*words, code=1)
        apart = cli(*words)

    lines = shown.splitlines()
    assert ["half", "half"] == lines[::2]
    assert lines[1].startswith("queuectl: job1 failed (exit 1), retry 1 of 1 in ")
    assert "queuectl: job1 is dead (exit 1) after 2 runs." == lines[3]
    assert "halfhalf" == apart.out
    assert "\n\n" not in apart.err
    assert not apart.err.startswith("\n")


def test_a_paused_queue_is_named(
    cli: Callable[..., Any], background: Callable[..., Any], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """It would wait for ever without a word otherwise."""
    cli("queue", "pause", "slow", code=0)
    with worker():
        waiting = background("run", "--queue", "slow", "--", "echo", "hi")
        eventually(lambda: "queue slow is paused" in waiting.err)
        cli("queue", "resume", "slow", code=0)

        assert waiting.wait().code == 0


@pytest.mark.parametrize("words", ["run -- echo hi", "enqueue -q -- echo hi && python -m queuectl wait job2"])
def test_a_job_that_waits_for_another_says_that_it_holds_the_slot(
    cli: Callable[..., Any], worker: Callable[..., Any], eventually: Callable[..., Any], words: str
) -> None:
    """Both would wait for ever; with one worker more both go on."""
    python = subprocess.list2cmdline([sys.executable])
    words = words.replace("python", python)
    cli("enqueue", "--command", f"{python} -m queuectl {words}", code=0)
    told = (
        "queuectl: all slots are taken, one of them by job1, which this command is part of, so job2 is waiting. "
        "Start one more worker: queuectl worker start\n"
    )
    with worker():
        eventually(lambda: told in cli("logs", "job1").out.replace("\r\n", "\n"))
        with worker():
            cli("wait", "job1", "job2", "--timeout", "60", code=0)

    assert 1 == cli("logs", "job1").out.count("all slots are taken")


@pytest.mark.posix("its command is written for a POSIX shell")
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["shown", "json"])
def test_a_cut_is_told_of_at_the_end(cli: Callable[..., Any], worker: Callable[..., Any], words: Any) -> None:
    """Once, for all runs that were shown: the exit code says nothing, and the line in the middle is easily missed."""
    cli("config", "set", "output_limit", "1000", code=0)
    command = "printf '%5000s' x; [ $QUEUECTL_ATTEMPT = 2 ]"
    with worker():
        result = cli("run", "--backoff-base", "1", *words, "--command", command)
        quiet = cli("run", "-q", "--command", "printf '%5000s' x")
        short = cli("run", "--command", "printf '%1000s' x")

    cut = 4000 if words else 8000
    assert result.code == 0
    assert result.err.endswith(
        f"queuectl: {cut} bytes of the output were cut, as it is longer than output_limit (1000). "
        "Write large output to a file in the command itself.\n"
    )
    assert result.err.count("were cut") == 1
    assert ("", "") == (quiet.err, short.err)


@pytest.mark.posix("its command is written for a POSIX shell")
def test_a_cancelled_job_ends_it_with_130(
    cli: Callable[..., Any], background: Callable[..., Any], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """What it wrote was shown."""
    with worker():
        running = background("run", "--command", "echo begun; exec sleep 60")
        eventually(lambda: "begun" in running.out)
        cli("cancel", "job1", code=0)
        result = running.wait()

    assert ("begun\n", "queuectl: job1 was cancelled.\n", 130) == result


@POSIX
def test_ctrl_c_leaves_the_job_to_the_workers(
    cli: Callable[..., Any], background: Callable[..., Any], worker: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """And says how to follow and how to end it."""
    with worker():
        running = background("run", "--command", "echo begun; while [ ! -e go ]; do sleep 0.02; done")
        eventually(lambda: "begun" in running.out)
        result = running.stop(signal.SIGINT)
        open("go", "w").close()

        assert result.code == 130
        assert result.err == (
            "queuectl: job1 keeps running. Follow it: queuectl logs -f job1. Cancel it: queuectl cancel job1.\n"
        )
        assert cli("wait", "job1", "--timeout", "20").code == 0


@POSIX
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--queue", "idle", "--delay", "100", "--", "true"), "so job1 is waiting."),
        (("--backoff-base", "100", "--", "false"), "retry 1 of 3 in "),
    ],
    ids=["not yet due", "between two runs"],
)
def test_ctrl_c_leaves_a_job_that_waits_in_the_queue(
    background: Callable[..., Any],
    worker: Callable[..., Any],
    eventually: Callable[..., Any],
    words: Any,
    told: str,
) -> None:
    """And does not claim that it is running."""
    with worker("--queue", "default"):
        waiting = background("run", *words)
        eventually(lambda: told in waiting.err)
        result = waiting.stop(signal.SIGINT)

    assert result.code == 130
    assert result.err.endswith(
        "\nqueuectl: job1 stays in the queue. Follow it: queuectl logs -f job1. Cancel it: queuectl cancel job1.\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_says_that_the_job_goes_on(
    cli: Callable[..., Any], worker: Callable[..., Any]
) -> None:
    """With its id: whoever takes the job for not enqueued runs it twice."""
    with worker(), open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "queuectl", "run", "--", "echo", "hi"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert ended.returncode == 1
    assert ended.stderr.replace(b"\r\n", b"\n") == (
        b"queuectl: cannot write to standard output: No space left on device. "
        b"job1 keeps running. Follow it: queuectl logs -f job1.\n"
    )


def test_json_is_one_document_at_the_end(cli: Callable[..., Any], worker: Callable[..., Any]) -> None:
    """With the runs and the output, which is not shown otherwise."""
    with worker():
        result = cli("run", "--json", "--", "echo", "hi")

    document = json.loads(result.out)
    assert (document["state"], document["output"].strip(), len(document["runs"])) == ("completed", "hi", 1)


def test_a_plain_command_is_told_how_to_be_run(cli: Callable[..., Any]) -> None:
    """By this command, not by ``enqueue``, which is where the sentence comes from."""
    told = "For a plain command: queuectl run -- COMMAND ARG ... or queuectl run --command 'COMMAND'"
    assert ("", f"queuectl: not a JSON object: 'make test'. {told}\n", 1) == cli("run", "make test")


def test_wrong_usage(cli: Callable[..., Any]) -> None:
    """Nothing is enqueued."""
    assert cli("run").code == 2
    assert cli("run", "sleep", "1").err.endswith("Put a command's words after --: queuectl run -- ...\n")
    assert cli("run", "ls", "-la").err.endswith("Put a command's words after --: queuectl run -- ...\n")
    assert cli("run", "{").code == 1
    assert cli("list", "-q").out == ""
