"""``queuectl enqueue --file``: many jobs, all or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest


def lines(*jobs: Any) -> str:
    return "".join(json.dumps(job) + "\n" for job in jobs)


def test_a_job_a_line(cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]]) -> None:
    """In the order of the file."""
    Path("jobs.jsonl").write_text(lines({"command": "a"}, {"command": "b", "priority": 3}, {"command": "c"}))

    result = cli("enqueue", "--file", "jobs.jsonl")

    assert ("Enqueued 3 jobs (job1 .. job3)\n", "", 0) == result
    assert [("job1", "a", 0), ("job2", "b", 3), ("job3", "c", 0)] == [
        (job["id"], job["command"], job["priority"]) for job in jobs()
    ]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "Enqueued 0 jobs\n"),
        ("\n  \n\t\r\n", "Enqueued 0 jobs\n"),
        ('{"command":"a"}', "Enqueued 1 job (job1)\n"),
        ('\n\n{"command":"a"}\r\n\n', "Enqueued 1 job (job1)\n"),
        ('\ufeff{"command":"a"}\n{"command":"b"}\n', "Enqueued 2 jobs (job1 .. job2)\n"),
    ],
)
def test_blank_lines_and_line_ends_do_not_count(cli: Callable[..., Any], text: str, answer: str) -> None:
    """An empty file is no mistake; a file that Windows wrote is read as it is meant."""
    assert (answer, "", 0) == cli("enqueue", "--file", "-", input=text)


@pytest.mark.parametrize(
    ("words", "line", "why"),
    [
        ([], '{"command":"a"' + " " * 4_000_000 + "}", "not a JSON object: longer than 2,621,"),
        ([], '{"command":"a"}' + " " * 4_000_000, "not a JSON object: longer than 2,621,"),
        ([], '{"command":"a","env":{"A":"' + "é" * 2_000_000 + '"}}', "not a JSON object: longer than 2,621,"),
        ([], "[" + " " * 4_000_000 + '{"command":"a"}]', "an array begins here"),
        (["--lines"], "true" + " " * 4_000_000, "job field 'command' is more than 2,621,"),
        (["--lines"], " " * 4_000_000, "job field 'command' is more than 2,621,"),
    ],
)
def test_a_line_of_absurd_length(
    cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]], words: List[str], line: str, why: str
) -> None:
    """It is called that; the part of it that was read is not taken for a line, nor what follows left out."""
    before = "echo 1" if words else '{"command":"echo 1"}'

    result = cli("enqueue", *words, "--file", "-", input=f"{before}\n{line}\n{before}\n")

    assert ("", 1) == (result.out, result.code)
    assert result.err.startswith(f"queuectl: line 2: {why}")
    assert result.err.endswith(" Nothing was enqueued.\n")
    assert [] == jobs()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("words", [["--lines"], []])
def test_a_file_in_utf_16_is_called_so(cli: Callable[..., Any], encoding: str, words: List[str]) -> None:
    """Windows PowerShell redirects into such files, and shows them as any other."""
    result = cli("enqueue", *words, "--file", "-", input='\ufeff{"command":"a"}\r\n'.encode(encoding))

    assert ("", 1) == (result.out, result.code)
    assert "line 1: not UTF-8 but UTF-16, as '>' in Windows PowerShell writes" in result.err
    assert "Nothing was enqueued." in result.err


def test_plain_commands(cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]]) -> None:
    """With ``--lines`` a line is a command for the shell, whatever is in it."""
    cli("enqueue", "--lines", "--file", "-", input="echo 'a b' | cat\n\n  {\"command\":1}  \r\n", code=0)

    assert ["echo 'a b' | cat", '{"command":1}'] == [job["command"] for job in jobs()]


def test_options_hold_for_every_line(cli: Callable[..., Any], jobs: Callable[..., List[Dict[str, Any]]]) -> None:
    """They override what a line says, as they override a job on the command line."""
    text = lines({"command": "a"}, {"command": "b", "priority": 1, "env": {"A": "1"}})

    cli("enqueue", "--file", "-", "--priority", "9", "--queue", "bulk", "--env", "B=2", input=text, code=0)

    assert [(9, "bulk", {"B": "2"}), (9, "bulk", {"A": "1", "B": "2"})] == [
        (job["priority"], job["queue"], job["env"]) for job in jobs()
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"command":"a", "priority":"x"}', "line 3: job field 'priority' must be"),
        (b"{not json", "line 3: not a JSON object"),
        (b'{"command":"\xff"}', "line 3: not valid UTF-8 (byte 13 is 0xff)"),
        (b'{"command":"a","state":"dead"}', "line 3: job field 'state' is set by queuectl itself"),
        (b"7", "line 3: a job must be a JSON object"),
        (b"echo hi", "line 3: not a JSON object: 'echo hi'. For a file of plain commands: queuectl enqueue --lines "),
        (
            b'[{"command":"a"},',
            "line 3: an array begins here, but each line must be an object. Convert the file: jq -c '.[]'",
        ),
        (b"[]", "line 3: an array begins here"),
        (
            b"{ ",
            "line 3: an object of several lines begins here, but each must be on one line. Convert the file: jq -c . ",
        ),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_stored(cli: Callable[..., Any], line: bytes, message: str) -> None:
    """Blank lines count for the number: it is the one that an editor shows."""
    result = cli("enqueue", "--file", "-", input=b'{"command":"a"}\n\n' + line + b'\n{"command":"b"}\n')

    assert (result.out, result.code) == ("", 1)
    assert result.err.startswith("queuectl: " + message)
    assert result.err.endswith("Nothing was enqueued.\n")
    assert cli("enqueue", "--", "a").out == "Enqueued job job1\n"


def test_an_id_that_is_taken_refuses_the_whole_file(cli: Callable[..., Any]) -> None:
    """Within the file too."""
    twins = lines({"command": "a", "id": "x"}, {"command": "b"}, {"command": "c", "id": "x"})

    result = cli("enqueue", "--file", "-", input=twins)

    assert (result.out, result.code) == ("", 1)
    assert "the id x is given twice" in result.err
    assert cli("enqueue", "--", "a").out == "Enqueued job job1\n"


def test_a_line_without_end_is_refused(cli: Callable[..., Any]) -> None:
    """It must not be read into memory for ever."""
    result = cli("enqueue", "--file", "-", "--lines", input=b"x" * 5_000_000)

    assert (result.out, result.code) == ("", 1)
    assert result.err.startswith("queuectl: line 1: job field 'command' is ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--file", "missing.jsonl"], 1, "cannot read missing.jsonl: No such file"),
        (["--file", "."], 1, "cannot read ."),
        (["--file", "-", "{}"], 2, "--file and a job on the command line do not go together"),
        (["--file", "-", "--", "a"], 2, "--file and a job on the command line do not go together"),
        (["--file", "-", "--id", "x"], 2, "--id is for a single job"),
        (["--file", "-", "--priority", "x"], 1, "job field 'priority' must be"),
        (["--file"], 2, "option --file needs a value"),
    ],
)
def test_what_does_not_go_together(cli: Callable[..., Any], words: List[str], code: int, message: str) -> None:
    """A bad option is not the fault of a line."""
    result = cli("enqueue", *words, input='{"command":"a"}\n')

    assert (result.out, result.code) == ("", code)
    assert message in result.err
    assert "line 1" not in result.err


def test_ids_and_documents_for_scripts(cli: Callable[..., Any]) -> None:
    """``-q`` prints an id a line, ``--json`` one document."""
    text = lines({"command": "a"}, {"command": "b", "id": "mine"})

    quiet = cli("enqueue", "-q", "--file", "-", input=text)
    document = cli("enqueue", "--json", "--file", "-", input=lines({"command": "a"}))

    assert ("job1\nmine\n", "", 0) == quiet
    assert {"count": 1, "ids": ["job2"]} == json.loads(document.out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"command":"a"}\n\n \n{"command":"b","id":"mine"}\n', "line 4: the id mine is taken."),
        (
            '\n{"command":"a","id":"x"}\n\n{"command":"b"}\n{"command":"c","id":"x"}\n',
            "line 5: the id x is given twice.",
        ),
        ('{"command":"a","id":"job1"}\n', "line 1: the id job1 was used by an earlier job."),
    ],
)
def test_an_id_that_is_not_free_is_named_with_its_line(
    cli: Callable[..., Any], add: Callable[..., str], jobs: Callable[..., List[Any]], text: str, message: str
) -> None:
    """Blank lines count in the file, though they hold no job; nothing is enqueued."""
    add("a")
    add("a", "--id", "mine")
    cli("cancel", "job1", code=0)
    cli("prune", "--yes", code=0)

    result = cli("enqueue", "--file", "-", input=text)

    told = "Give another id, or none to get the next one. Nothing was enqueued."
    assert ("", f"queuectl: {message} {told}\n", 1) == result
    assert ["mine"] == [job["id"] for job in jobs()]


def test_the_store_is_not_locked_while_the_file_is_read(
    cli: Callable[..., Any], background: Callable[..., Any]
) -> None:
    """A slow pipe must not keep workers and other enqueuers from the store."""
    import subprocess
    import sys

    slow = subprocess.Popen(
        [sys.executable, "-m", "queuectl", "enqueue", "--file", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert slow.stdin is not None
    slow.stdin.write(b'{"command":"a"}\n' * 10)
    slow.stdin.flush()

    other = cli("enqueue", "--", "b")  # or it would wait for what comes only after it
    out, _ = slow.communicate(b'{"command":"c"}\n')

    assert other.out == "Enqueued job job1\n"
    assert out.splitlines() == [b"Enqueued 11 jobs (job2 .. job12)"]


@pytest.mark.posix
@pytest.mark.parametrize("before", [b"echo 1\nrm -rf /srv/build/ol", b""])
def test_a_pipe_that_does_not_block_is_read_to_its_end(
    jobs: Callable[..., List[Dict[str, Any]]], before: bytes
) -> None:
    """Programs that share a pipe may have left it so: that nothing is there yet is no end, least of all of a line."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    words = [sys.executable, "-m", "queuectl", "enqueue", "--lines", "--file", "-"]
    with subprocess.Popen(words, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        os.write(writing, before)
        with pytest.raises(subprocess.TimeoutExpired):  # it has not ended, but waits
            process.wait(1)
        os.write(writing, b"d-cache\necho 2")
        os.close(writing)
        os.close(reading)
        assert process.stdout is not None
        said = process.stdout.read()

    expected = (before + b"d-cache\necho 2").decode().split("\n")
    assert f"Enqueued {len(expected)} jobs (job1 .. job{len(expected)})\n" == said.decode()
    assert expected == [job["command"] for job in jobs()]


@pytest.mark.posix
def test_one_ctrl_d_ends_the_jobs_that_are_typed(jobs: Callable[..., List[Dict[str, Any]]]) -> None:
    """A read beyond the first end would wait for a second one."""
    import pty

    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "queuectl", "enqueue", "--lines", "--file", "-"]
    with subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE) as process:
        os.write(ours, b"echo 1\necho 2\n\x04")
        assert b"Enqueued 2 jobs (job1 .. job2)\n" == process.communicate(timeout=30)[0]
    os.close(theirs)
    os.close(ours)

    assert ["echo 1", "echo 2"] == [job["command"] for job in jobs()]


@pytest.mark.posix
def test_a_bar_on_a_terminal_alone(terminal: Callable[..., str], cli: Callable[..., Any]) -> None:
    """It is gone at the end, and never in a pipe."""
    Path("jobs.jsonl").write_text(lines(*[{"command": "echo " + "x" * 2000}] * 2000))

    shown = terminal("enqueue", "--file", "jobs.jsonl")
    narrow = terminal("enqueue", "--file", "jobs.jsonl", columns=40)
    piped = cli("enqueue", "--file", "jobs.jsonl")

    assert "[###" in shown
    assert shown.rstrip("\n").split("\r")[-1] == "Enqueued 2000 jobs (job1 .. job2000)"
    assert "[##" in narrow
    assert max(map(len, narrow.replace("\n", "\r").split("\r"))) < 40
    assert ("Enqueued 2000 jobs (job4001 .. job6000)\n", "", 0) == piped


def test_two_files(cli: Callable[..., Any]) -> None:
    """The first is not left out without a word."""
    done = cli("enqueue", "--lines", "--file", "a", "--file=b")

    said = "queuectl: option --file takes one FILE, but was given twice. Run the command once for each.\n"
    assert ("", said, 2) == done


def test_a_file_in_the_home_folder(cli: Callable[..., Any], home: Any) -> None:
    """Shells leave the tilde of ``--file=~/jobs`` as it is; the other options that name files read it too."""
    (home.parent / "jobs").write_text("true\n")
    (home.parent / "sub").mkdir()

    assert "Enqueued 1 job (job1)\n" == cli("enqueue", "--lines", "--file=~/jobs", cwd="sub", code=0).out


@pytest.mark.posix("the largest size of a process that has ended")
def test_memory_does_not_grow_with_the_file() -> None:
    """A file of very many jobs takes as much of it as one of many."""
    taken = []
    for count in (25_000, 250_000):
        Path("commands").write_text("true\n" * count)
        words = [sys.executable, "-m", "queuectl", "--db", f"{count}.db", "enqueue", "--lines", "--file", "commands"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert f"Enqueued {count} jobs (job1 .. job{count})\n".encode() == process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert 0 == status
        taken.append(usage.ru_maxrss)

    assert taken[1] < 1.5 * taken[0]
