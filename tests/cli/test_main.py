"""The root: global options, help, versions, and the one place where errors are printed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

import queuectl
from queuectl import Queue
from queuectl.cli_commands import FLAGS, SHORT, TABLE, VALUED, all_commands, suggest
from queuectl.cli_commands.spec import GLOBAL_OPTIONS
from queuectl.job import STATES
from queuectl.main import main

POSIX = pytest.mark.posix
TOO_MUCH = "unexpected argument '%s': list takes no arguments."


def test_alone_it_says_how_to_start(cli: Callable[..., Any]) -> None:
    """On an empty store: the three commands."""
    result = cli(code=0)

    assert result.out == (
        "No jobs yet. To get started:\n\n"
        '  queuectl enqueue \'{"command":"echo hello"}\'   add a job\n'
        "  queuectl worker start                         run jobs until Ctrl-C\n"
        "  queuectl status                               see how they are doing\n\n"
        "'queuectl help' lists all commands; 'queuectl demo' shows a queue at work.\n"
    )


@POSIX
@pytest.mark.parametrize("words", ["--help", "help copy", "help service", "help worker stop"])
def test_help_fits_a_narrow_terminal(terminal: Callable[..., str], words: str) -> None:
    """Prose and the tables of options are wrapped, and say the same."""
    wide, narrow = terminal(*words.split(), columns=120), terminal(*words.split(), columns=70)

    assert wide.split() == narrow.split()
    told = [line for line in narrow.splitlines() if not line.startswith(("  queuectl ", "Usage:", "Environment:"))]
    assert [] == [line for line in told if len(line) > 70]


def test_alone_it_is_the_status(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """As soon as there is a job."""
    add("true")

    assert cli(code=0).out.startswith("Job states:\n  pending: 1\n")


@pytest.mark.parametrize(
    "words", [["--version"], ["enqueue", "--version"], ["--db", "x", "--version"], ["dlq", "--version"]]
)
def test_version(cli: Callable[..., Any], words: List[str], home: Any) -> None:
    """Wherever it stands, and no store is made for it."""
    assert (f"queuectl {queuectl.__version__}\n", "", 0) == cli(*words)
    assert not home.exists()


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_root_help(cli: Callable[..., Any], words: List[str]) -> None:
    """Names every command that is not hidden."""
    out = cli(*words, code=0).out

    assert out.startswith("Usage: queuectl [OPTIONS] COMMAND ...\n")
    assert all(f"\n  {name} " in out for name, entry in TABLE.items() if entry.group)
    assert "__complete" not in out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["enqueu", "{}"], "unknown command 'enqueu'. Did you mean enqueue?"),
        (["xyzzy"], "unknown command 'xyzzy'. See them all: queuectl help"),
        (["stop"], "unknown command 'stop'. Did you mean worker stop?"),
        (["pause", "mail"], "unknown command 'pause'. Did you mean queue pause?"),
        (["ls"], "unknown command 'ls'. Did you mean list?"),
        (["top"], "unknown command 'top'. Did you mean status?"),
        (["watch"], "unknown command 'watch'. Did you mean status?"),
        (["requeue", "job1"], "unknown command 'requeue'. Did you mean retry?"),
        (["priority", "job1", "5"], "unknown command 'priority'. Did you mean edit?"),
        (["enq"], "unknown command 'enq'. Did you mean enqueue?"),
        (["re"], "unknown command 're'. See them all: queuectl help"),
        (["e"], "unknown command 'e'. See them all: queuectl help"),
        (["enqueue", "--back", "3"], "unknown option --back. Did you mean --backoff-base?"),
        (["list", "--state", "running"], "unknown state 'running'. Did you mean processing?"),
        (["enqueue", "--cmd", "true"], "unknown option --cmd. Did you mean --command?"),
        (["-V"], "unknown option -V. Did you mean --version?"),
        (["list", "-V"], "unknown option -V. Did you mean --version?"),
        (["worker", "start", "--jobs", "3"], "unknown option --jobs. Did you mean --count?"),
        (["dlq", "rety"], "unknown command dlq 'rety'. Did you mean retry?"),
        (["dlq", "xyzzy"], "unknown command dlq 'xyzzy'. There are list, retry, purge."),
        (["dlq"], "dlq needs a command: queuectl dlq list|retry|purge."),
        (["--jsn", "list"], "unknown option --jsn. Did you mean --json?"),
        (["list", "--jsn"], "unknown option --jsn. Did you mean --json?"),
        (["list", "-z"], "unknown option -z."),
        (["--db"], "option --db needs a value: --db PATH|URL."),
        (["list", "--state", "ded"], "unknown state 'ded'. Did you mean dead?"),
        (["list", "--state", "xyzzy"], "unknown state 'xyzzy'. The states are pending, processing, failed,"),
        (["list", "--sort", "priorty"], "cannot sort by 'priorty'. Did you mean priority?"),
        (["list", "--state", "runing"], "unknown state 'runing'. Did you mean processing?"),
        (["list", "--state", "x" * 10_000], "unknown state 'xxxx"),
        (["list", "--sort", "x" * 100], "cannot sort by 'xxxx"),
        (["worker", "run"], "unknown command worker 'run'. Did you mean start?"),
        (
            ["worker", "run", "--queue", "mail", "--count", "3", "--drain"],
            "unknown command worker 'run'. Did you mean start?",
        ),
        (["worker", "supervise"], "unknown command worker 'supervise'."),
        (["queue", "stop", "mail"], "unknown command queue 'stop'. Did you mean pause?"),
        (["dlq", "rm", "job1"], "unknown command dlq 'rm'. Did you mean purge?"),
        (["list", "failed"], f"{TOO_MUCH % 'failed'} Did you mean --state failed?"),
        (["list", "running"], f"{TOO_MUCH % 'running'} Did you mean --state processing?"),
        (["list", "--since", "1h"], "unknown option --since. See the options: queuectl help list"),
        (["run", "--file", "x"], "unknown option --file. See the options: queuectl help run"),
        (["retry", "--all"], "unknown option --all. See the options: queuectl help retry"),
        (["queue", "delete", "mail"], "unknown command queue 'delete'. There are list, pause, resume, limit."),
        (["copy", "new.db"], "copy takes no arguments. The target stands after --to: queuectl copy --to PATH|URL"),
        (["worker", "start", "3"], "unexpected argument '3': worker start takes no arguments. Did you mean --count 3?"),
        (["worker", "start", "-n", "3"], "unknown option -n. Did you mean --count?"),
        (["worker", "start", "-d"], "unknown option -d. Did you mean --daemon?"),
        (["list", "-n", "3"], "unknown option -n. Did you mean --limit?"),
        (["enqueue", "-a", "job1", "--", "true"], "unknown option -a. Did you mean --after?"),
        (["list", "--format", "json"], "unknown option --format. Did you mean --json?"),
        (["edit", "job1", "--priority", "5"], "unknown option --priority. edit takes FIELD=VALUE: queuectl edit job1 "),
        (["wait", "--state=a"], "unknown option --state. All that have not ended are chosen by --all, --queue Q or "),
        (["run", "--depends-on=job1", "--", "true"], "unknown option --depends-on. Did you mean --after ID? The job "),
        (["enqueue", "prog", "--verbatim", "x"], "Put a command's words after --: queuectl enqueue -- ..."),
        (["list", "--failed"], "unknown option --failed. Did you mean --state failed?"),
        (["list", "--done", "--limit", "3"], "unknown option --done. Did you mean --state completed?"),
        (["retry", "--failed"], "unknown option --failed. Did you mean --state failed?"),
        (
            ["dlq", "retry", "--all", "--tag", "nightly"],
            "unknown option --tag. To retry some of the dead jobs: queuectl retry --state dead --tag T",
        ),
        (["logs", "-n", "5", "job1"], "unknown option -n. Did you mean --tail?"),
        (["config", "set", "lease=5"], "config set needs V: queuectl config set lease 5"),
        (
            ["list", "--state", "dead,failed"],
            "option --state takes one state, not 'dead,failed'. Give it once for each: --state dead --state failed.",
        ),
        (["list", "more"], "unexpected argument 'more': list takes no arguments."),
        (["show"], "show needs ID: queuectl show ID"),
        (["help", "lst"], "unknown command 'lst'. Did you mean list?"),
        (["help", "dlq", "list", "x"], "unexpected argument 'x'. Did you mean queuectl help dlq list?"),
        (["help", "dlq", "lst"], "unknown command dlq 'lst'. Did you mean list?"),
        (["completion", "bsh"], "no completion for 'bsh'. Did you mean bash?"),
        (["list", "--state", "\x1b[31mred"], "unknown state '\\x1b[31mred'."),
        (["x" * 10_000], "unknown command 'xxxx"),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(cli: Callable[..., Any], words: List[str], hint: str, home: Any) -> None:
    """With what was perhaps meant; on one line; and no store is made for it."""
    result = cli(*words)

    assert (result.out, result.code) == ("", 2)
    assert result.err.startswith("queuectl: ")
    assert hint in result.err
    assert result.err.count("\n") == 1
    assert len(result.err) < 300
    assert not home.exists()


def test_suggestions_exist() -> None:
    """What is suggested for another tool's word is a command or state, and that word is none itself."""
    words = {name for name, entry in TABLE.items() if entry.group} | {command.name for command in all_commands()}
    meant = {text.partition(" -")[0] for text in suggest.COMMANDS.values()} - {"--version"}

    assert meant <= words
    assert not set(suggest.COMMANDS) & set(TABLE)
    assert {option for meant in suggest.OPTIONS.values() for option in meant} <= FLAGS | VALUED
    assert not set(suggest.OPTIONS) & (FLAGS | VALUED | {f"-{letter}" for letter in SHORT})
    verbs = {verb for entry in TABLE.values() for verb in entry.subcommands}
    assert {verb for meant in suggest.VERBS.values() for verb in meant} <= verbs
    assert set(suggest.STATES.values()) <= set(STATES)
    assert not set(suggest.STATES) & set(STATES)


def test_no_abbreviations(cli: Callable[..., Any]) -> None:
    """A script that says --prio would break when another option begins like that."""
    assert cli("enqueue", "--prio", "1", "--", "true").code == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("-S 3 list", "unknown option -S. See the options: queuectl help"),
        ("-j 4 worker start", "unknown option -j. Did you mean --count?"),
        ("worker -j 4 start", "unknown option -j. Did you mean --count?"),
    ],
)
def test_an_unknown_option_before_a_command_is_named(cli: Callable[..., Any], words: str, told: str) -> None:
    """Not what follows it, which would be its value elsewhere."""
    assert f"queuectl: {told}\n" == cli(*words.split(), code=2).err


def test_the_store_is_named_by_option_before_environment(cli: Callable[..., Any], home: Any) -> None:
    """``--db``, then QUEUECTL_DB, then the home."""
    env = {"QUEUECTL_DB": str(home.parent / "env.db")}
    cli("enqueue", "--", "a", env=env, code=0)
    cli("--db", "option.db", "enqueue", "--", "b", env=env, code=0)
    cli("enqueue", f"--db=sqlite://{home.parent}/option.db", "--", "c", env=env, code=0)

    assert not (home / "jobs.db").exists()
    assert cli("list", "-q", env=env).out == "job1\n"
    assert cli("list", "-q", "--db", str(home.parent / "option.db")).out == "job1\njob2\n"


@pytest.mark.parametrize(
    "words",
    ["", "status", "list", "show job1", "logs job1", "logs -f job1", "explain job1", "wait job1", "dlq list",
     "queue list", "worker list", "config list", "config get lease", "cancel job1", "cancel --queue q", "retry job1",
     "retry --state dead",
     "edit job1 priority=1",
     "dlq retry job1", "dlq retry --all", "dlq purge -y", "prune -y", "reset -y", "worker stop", "queue resume q",
     "config unset lease"],
)  # fmt: skip
def test_looking_makes_no_store_where_somebody_mistyped_its_path(
    cli: Callable[..., Any], home: Any, words: str
) -> None:
    """It would say that there are no jobs, as would what changes some. Without ``--db`` the home is made."""
    path = home.parent / "mistyped.db"
    told = f"queuectl: there is no store at {path}. 'queuectl enqueue' creates one.\n"

    assert ("", told, 1) == cli("--db", str(path), *words.split())
    assert not path.exists()
    path.write_bytes(b"")
    assert f"there is no store in {path}: it is empty." in cli("--db", str(path), *words.split()).err
    assert path.read_bytes() == b""
    assert "there is no store" not in cli(*words.split()).err


@POSIX
def test_a_current_directory_that_is_gone_is_named(cli: Callable[..., Any], home: Any) -> None:
    """Where a path is relative nothing can be done there; elsewhere nobody asks for it."""
    gone = home.parent / "gone"
    for words, told in (
        (["--db", "x.db", "status"], "or use absolute paths."),
        (["enqueue", "--cwd", "sub", "--", "true"], "or use absolute paths."),
        (["enqueue", "--", "true"], "or give --cwd DIR."),
    ):
        gone.mkdir()
        ended = subprocess.run(
            ["sh", "-c", 'cd gone && rmdir ../gone && exec "$@"', "sh", sys.executable, "-m", "queuectl", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        expected = f"queuectl: the current directory no longer exists. Change to another, {told}\n"
        assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", expected)


@POSIX
@pytest.mark.parametrize("value", ["", "relative"])
def test_an_odd_home_is_none(cli: Callable[..., Any], home: Any, value: str) -> None:
    """Neither the root nor wherever one happens to be."""
    result = cli("status", env={"HOME": value, "QUEUECTL_HOME": ""})

    told = "queuectl: this user has no home directory. Set QUEUECTL_HOME to a directory of your own.\n"
    assert result == ("", told, 1)
    assert not (home.parent / "relative").exists()


@pytest.mark.posix("pipes with a name")
def test_a_pipe_or_a_device_is_no_store(cli: Callable[..., Any], home: Any) -> None:
    """Nothing is made of it, and its mode stays: as root that of /dev/null could be changed."""
    pipe = home.parent / "pipe"
    os.mkfifo(pipe, 0o644)
    os.chmod(pipe, 0o644)

    for words in (["status"], ["enqueue", "--", "true"]):
        assert cli("--db", str(pipe), *words) == (
            "",
            f"queuectl: {pipe} is a device or a pipe, not a store. Choose another path with --db or QUEUECTL_DB.\n",
            1,
        )

    assert stat.S_IFIFO | 0o644 == pipe.stat().st_mode


def test_a_directory_is_no_store(cli: Callable[..., Any], home: Any) -> None:
    """It says so, and what would be one."""
    folder = home.parent / "folder"
    folder.mkdir()

    for words in (["status"], ["enqueue", "--", "true"]):
        assert cli("--db", str(folder), *words) == (
            "",
            f"queuectl: {folder} is a directory, not a store. Name a file in it: {folder / 'jobs.db'}\n",
            1,
        )


def test_a_store_that_is_not_ours_is_a_sentence(cli: Callable[..., Any], home: Any) -> None:
    """Exit code 1, and the file is as it was."""
    path = home.parent / "notes.db"
    path.write_bytes(b"my diary " * 1000)

    result = cli("--db", str(path), "list")

    assert (result.out, result.code) == ("", 1)
    assert result.err.startswith("queuectl: ")
    assert result.err.count("\n") == 1
    assert path.read_bytes() == b"my diary " * 1000


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/d?schema=s", "postgresql://me@127.0.0.1:1/d?schema=s"),
        ("postgresql://127.0.0.1:1/d?user=me&password=hunter2", "postgresql://me@127.0.0.1:1/d"),
        ("postgresql://me:pa?hunter2@127.0.0.1:1/d", "postgresql://me@127.0.0.1:1/d"),
        ("postgresql://me:a@hunter2@127.0.0.1:1/d", "postgresql://..."),
    ],
)
def test_a_verbose_command_shows_no_password(cli: Callable[..., Any], url: str, shown: str) -> None:
    """It stands before the host or behind the question mark, and may have such signs in it itself."""
    pytest.importorskip("psycopg", reason="without the driver no part of a URL is shown")
    result = cli("-v", "--db", url, "list")

    assert f"queuectl: the store is {shown} (--db)." in result.err
    assert "hunter2" not in result.err


def test_an_unknown_kind_of_store(cli: Callable[..., Any]) -> None:
    """And one whose driver is not installed is told how to install it."""
    result = cli("--db", "mysql://host/db", "list")

    assert (result.code, "unknown kind of store mysql://" in result.err) == (1, True)


def test_messages_are_on_one_line_whatever_they_name(cli: Callable[..., Any]) -> None:
    """Ids, keys and paths are shown with control characters escaped."""
    assert "Job not found: 'a\\nb\\x1b[31m'." in cli("show", "a\nb\x1b[31m").err


@POSIX
def test_an_argument_that_is_no_utf8(cli: Callable[..., Any]) -> None:
    """Anywhere: a sentence, not a traceback."""
    for words in (
        [b"show", b"\xff"],
        [b"cancel", b"\xff"],
        [b"list", b"--queue", b"\xff"],
        [b"\xff"],
        [b"wait", b"\xff"],
    ):
        result = cli(*words)
        assert result.code in (1, 2)
        assert result.err.startswith("queuectl: ")
        assert result.err.count("\n") == 1


# -- streams ----------------------------------------------------------------------------------


@POSIX
def test_a_reader_that_leaves_is_no_error(cli: Callable[..., Any]) -> None:
    """``queuectl list | head -1`` is quiet and ends as SIGPIPE would end it."""
    cli("enqueue", "--file", "-", "--lines", input="echo " + "x" * 1000 + "\n" + "true\n" * 2000, code=0)
    process = subprocess.Popen(
        [sys.executable, "-m", "queuectl", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()

    assert (process.wait(30), err) == (141, b"")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the size of a pipe cannot be set")
def test_a_ctrl_c_amid_a_write_does_not_show_it_twice(cli: Callable[..., Any], drain: Callable[..., Any]) -> None:
    """The buffer before it cannot know that it was written, as the interrupt comes before the call's return."""
    import fcntl
    import termios

    cli("enqueue", "--", "seq", "1500", code=0)
    drain()
    said = "".join(f"{number}\n" for number in range(1, 1501))  # less than such a buffer holds, more than the pipe
    ours, theirs = os.pipe()
    room = fcntl.fcntl(theirs, getattr(fcntl, "F_SETPIPE_SZ", 1031), 4096)  # named from Python 3.10 on
    assert room < len(said) < 8192
    process = subprocess.Popen(
        [sys.executable, "-m", "queuectl", "logs", "job1"], stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    deadline = time.monotonic() + 30
    while int.from_bytes(fcntl.ioctl(ours, termios.FIONREAD, b"\0" * 4), sys.byteorder) < room:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    process.send_signal(signal.SIGINT)

    with open(ours) as shown:
        assert said.startswith(shown.read())
    assert (b"queuectl: interrupted.\n", 130) == (process.communicate()[1], process.returncode)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing says that it waits for the pipe")
def test_a_second_ctrl_c_while_the_first_is_told(home: Any, eventually: Callable[..., Any]) -> None:
    """No traceback, and the exit code of an interrupt; here the terminal takes no message, as after a Ctrl-S."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(theirs, b"-")
    os.set_blocking(theirs, True)
    os.mkfifo("jobs")
    process = subprocess.Popen([sys.executable, "-m", "queuectl", "enqueue", "--file", "jobs"], stderr=theirs)
    os.close(theirs)

    with open("jobs", "wb"):  # as soon as the command reads
        process.send_signal(signal.SIGINT)
        eventually(lambda: Path(f"/proc/{process.pid}/syscall").read_text().split()[1:2] == ["0x2"], what="the message")
        process.send_signal(signal.SIGINT)

    assert 130 == process.wait(30)
    with open(ours, "rb") as said:
        assert b"" == said.read().strip(b"-")


@pytest.mark.skipif(os.name != "nt", reason="elsewhere all but one character may be in a name")
def test_a_path_that_can_be_none_is_not_taken_for_a_reader_that_left(cli: Callable[..., Any]) -> None:
    """Windows has one number for both, and the second ends without a word."""
    result = cli("--db", "jobs.db", "worker", "start", "--daemon", env={"QUEUECTL_HOME": r"C:\a|b"}, code=1)

    assert r"a|b" in result.err
    assert result.err.startswith("queuectl: ")
    assert 1 == result.err.count("\n")


@POSIX
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "done"),
    [
        ("status", "The command itself was carried out."),
        ("queue pause mail", "The command itself was carried out."),
        ("list", "What was done before stays done."),
        ("list --table", "What was done before stays done."),
        ("enqueue -- true", "The job was enqueued: job3."),
        ("enqueue -q -- true", "The job was enqueued: job3."),
        ("enqueue --json -- true", "The job was enqueued: job3."),
        ("enqueue --lines --file lines", "Enqueued 2000 jobs (job3 .. job2002) all the same."),
        ("enqueue -q --lines --file lines", "Enqueued 2000 jobs (job3 .. job2002) all the same."),
    ],
)
def test_output_that_cannot_be_written_is_said(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, unbuffered: str, words: str, done: str
) -> None:
    """A full disk behind ``>`` must not look like success, nor as if nothing was done: somebody would do it again."""
    for _ in range(2):  # more than is kept back before it is written: up to 128 KiB from Python 3.15 on
        cli("enqueue", "--", "true", "x" * 100_000, code=0)
    with open("lines", "w") as lines:
        lines.write("true\n" * 2000)
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)

    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "queuectl", *words.split()], stdout=full, stderr=subprocess.PIPE, check=False
        )

    assert ended.returncode == 1
    assert ended.stderr.decode() == f"queuectl: cannot write to standard output: No space left on device. {done}\n"


@POSIX
def test_a_pipe_that_does_not_block_gets_all(cli: Callable[..., Any]) -> None:
    """Another program on the same pipe or terminal may have made it so: that it is full for a moment is no error."""
    cli("enqueue", "--file", "-", "--lines", input="true\n" * 2000, code=0)
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    process = subprocess.Popen([sys.executable, "-m", "queuectl", "list"], stdout=theirs, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while select.select([], [theirs], [], 0)[1]:  # until it is full
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(theirs)

    with open(ours) as listed:
        assert 2000 == len(listed.readlines())
    assert (b"", 0) == (process.communicate()[1], process.returncode)


@POSIX
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("words", "out", "code"),
    [("enqueue -v -- true", "Enqueued job job2\n", 0), ("wait job1 --timeout 0.1", "", 124), ("show job9", "", 1)],
)
def test_a_message_that_cannot_be_written_changes_nothing(
    cli: Callable[..., Any], words: str, out: str, code: int
) -> None:
    """Nobody can be told of it; least of all may an enqueue look as if it had failed: it would be repeated."""
    cli("enqueue", "--", "true", code=0)

    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "queuectl", *words.split()], stdout=subprocess.PIPE, stderr=full, check=False
        )

    assert (out, code) == (ended.stdout.decode(), ended.returncode)


@POSIX
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_harm_nothing(closed: str, cli: Callable[..., Any]) -> None:
    """Above all the store must not be opened as descriptor 1, and then be printed into."""
    line = f'exec "{sys.executable}" -m queuectl "$@" {closed}'

    def run(*words: str) -> int:
        return subprocess.run(["/bin/sh", "-c", line, "sh", *words], stdin=subprocess.DEVNULL, check=False).returncode

    assert run("enqueue", "--", "true") == 0
    assert run("list") == 0
    assert run("show", "nobody") == 1
    assert cli("list", "-q", code=0).out == "job1\n"
    assert cli("doctor", code=0)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_output_fails_for_its_encoding(cli: Callable[..., Any], encoding: str) -> None:
    """What an encoding cannot say is shown escaped."""
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    cli("enqueue", '{"command":"echo \\u4e2d\\u00fc \\ud83d\\ude00"}', code=0)

    table = cli("list", "--table", env=env, binary=True, code=0).out
    lines = cli("list", env=env, code=0).out
    shown = cli("show", "job1", env=env, binary=True, code=0).out

    expected = "echo \u4e2d\u00fc \U0001f600".encode(encoding, "backslashreplace")
    assert expected in table
    assert expected in shown
    assert '"echo \\u4e2d\\u00fc \\ud83d\\ude00"' in lines


def test_the_c_locale_is_enough(cli: Callable[..., Any]) -> None:
    """As cron jobs and containers have it."""
    cli("enqueue", "--", "echo", "caf\u00e9", env={"LC_ALL": "C", "LANG": None}, code=0)

    assert cli("show", "job1", env={"LC_ALL": "C"}, code=0).out


# -- as a function ----------------------------------------------------------------------------


def test_main_is_a_function(capsys: pytest.CaptureFixture[str], home: Any) -> None:
    """It takes words and returns the exit code; streams may be anything that takes text."""
    codes = [main(["enqueue", "--", "true"]), main(["show", "job9"]), main(["bogus"])]
    captured = capsys.readouterr()

    assert [0, 1, 2] == codes
    assert captured.out == "Enqueued job job1\n"
    assert captured.err.count("queuectl: ") == 2


def test_an_unexpected_error_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Any
) -> None:
    """Nobody is shown a traceback, unless they ask for it."""
    from queuectl.queue import Queue

    def broken(self: Queue) -> None:
        raise RuntimeError("the sky\nfell")

    monkeypatch.setattr(Queue, "status", broken)

    assert main(["status"]) == 1
    assert (
        capsys.readouterr().err
        == "queuectl: RuntimeError: the sky\\nfell. Set QUEUECTL_DEBUG=1 to see where it comes from.\n"
    )
    monkeypatch.setenv("QUEUECTL_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main(["status"])


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_errors_of_the_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Any, error: BaseException
) -> None:
    """Each has its sentence and its exit code."""
    from queuectl.queue import Queue

    def broken(self: Queue) -> None:
        raise error

    monkeypatch.setattr(Queue, "status", broken)
    expected = {
        MemoryError: (1, "out of memory."),
        OSError: (1, "No space left on device."),
        KeyboardInterrupt: (130, "interrupted."),
    }
    code, message = expected[type(error)]

    assert (main(["status"]), capsys.readouterr().err) == (code, f"queuectl: {message}\n")


@POSIX
@pytest.mark.parametrize("words", [["enqueue", "--", "true"], ["worker", "start", "--daemon"], ["status"]])
def test_too_few_descriptors_are_a_sentence(home: Any, words: List[str]) -> None:
    """Not even a module can be read then, such as the one that makes messages printable: still nobody sees a trace."""
    code = (
        "import resource, sys; from queuectl.main import main; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv.pop(1)),) * 2); main()"
    )
    said = []
    for few in range(3, 12):
        done = subprocess.run(
            [sys.executable, "-c", code, str(few), *words], capture_output=True, text=True, timeout=60
        )
        if done.returncode == 0:
            break
        said.append(done.stderr)
        assert 1 == done.returncode

    assert said
    assert said[0].startswith("queuectl: Too many open files (ulimit -n is 3): ")
    assert [] == [each for each in said if not each.startswith("queuectl: ") or each.count("\n") > 1]
    subprocess.run([sys.executable, "-m", "queuectl", "worker", "stop", "--now"], check=True, capture_output=True)


# -- the tables -------------------------------------------------------------------------------


def test_the_sets_of_option_names_are_those_of_the_tables() -> None:
    """Options in front of a command are read before its table is known."""
    options = [option for command in all_commands(hidden=True) for option in (*GLOBAL_OPTIONS, *command.options)]

    assert {option.long for option in options if not option.metavar} == FLAGS
    assert {option.long for option in options if option.metavar} == VALUED
    assert not FLAGS & VALUED


def test_short_options_are_flags_and_mean_one_thing() -> None:
    """They may be joined: ``-qv``."""
    meanings: Any = {}
    for command in all_commands(hidden=True):
        for option in (*GLOBAL_OPTIONS, *command.options):
            for name in option.names[:-1]:
                assert len(name) == 2
                assert not option.metavar
                assert meanings.setdefault(name, option.long) == option.long
    assert {name[1] for name in meanings} == SHORT


def test_every_command_says_what_it_does_with_an_example() -> None:
    """And its examples begin as it is typed."""
    for command in all_commands():
        assert command.summary
        assert command.examples, command.name
        assert not command.summary.endswith(".")
        assert any(f"queuectl {command.name}" in line for line, _ in command.examples), command.name


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.name)
def test_each_command_has_help(command: Any, capsys: pytest.CaptureFixture[str], home: Any) -> None:
    """Usage first, then what it is for, examples before options; the same by ``help``, and by ``--help`` anywhere."""
    words = command.name.split()

    assert main(["help", *words]) == 0
    text = capsys.readouterr().out
    assert main([*words, "--help"]) == 0
    assert capsys.readouterr().out == text
    assert main(["--help", *words]) == 0
    assert capsys.readouterr().out == text
    assert text.startswith(f"Usage: queuectl {command.name}")
    assert f"\n\n{command.summary}.\n" in text
    assert text.index("\nExamples:\n") < text.index("\nGlobal options:\n")
    assert all(option.long in text and option.help in text for option in command.options)
    assert not home.exists()


@pytest.mark.posix("bytes as words")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(
            (verb, "Job not found: 'job\\udc80'. 'queuectl list' shows the ids.")
            for verb in ("show", "cancel", "logs", "wait")
        ),
        ("dlq retry", "Job not found in DLQ: 'job\\udc80'."),
    ],
)
def test_a_name_that_is_no_utf8_is_nobodys(cli, words, message):
    """What a file's name may be and no id can: said in a sentence."""
    cli("enqueue", "--", "true")
    done = cli(*words.split(), b"job\x80")
    assert ("", f"queuectl: {message}\n", 1) == done


@pytest.mark.parametrize("words", [["--db", "", "reset", "--yes"], ["status", "--db="]], ids=" ".join)
def test_a_store_without_a_name_is_not_the_default_one(cli, words):
    """A variable that a shell found empty must not lead to another store."""
    done = cli(*words)
    assert (2, "", True) == (done.code, done.out, "--db must be a path or a URL" in done.err), done.err


@pytest.mark.parametrize(
    "words", [["list"], ["retry"], ["prune", "--yes"], ["dlq", "list"], ["dlq", "purge", "--yes"]], ids=" ".join
)
@pytest.mark.parametrize("text", ["", "a b", "-x"])
def test_a_filter_by_a_name_that_nothing_has_is_a_slip(cli, words, text):
    """An empty variable of a shell is not an empty result."""
    cli("enqueue", "--", "true", code=0)
    rule = "1-128 of A-Z a-z 0-9 . _ -, not starting with - or ."
    assert ("", f"queuectl: a tag must be {rule}, not {text!r}.\n", 2) == cli(*words, "--tag=" + text)
    assert ("", f"queuectl: a queue's name must be {rule}, not {text!r}.\n", 2) == cli(*words, "--queue=" + text)


@pytest.mark.parametrize("words", [["list", "extra"], ["dlq", "list", "extra"]], ids=" ".join)
def test_help_takes_no_word_too_many(cli, words):
    """As no other command does."""
    done = cli("help", *words)
    assert (2, "", True) == (done.code, done.out, "'extra'" in done.err), done.err


@pytest.mark.parametrize("words", [["prune"], ["reset"], ["dlq", "purge"]], ids=" ".join)
@pytest.mark.parametrize("how", ["--json", "-q"])
def test_who_says_no_is_told_so_beside_the_answer(cli, words, how):
    """Nothing on standard output, which is for a program; the person reads it on the other one."""
    cli("enqueue", "--max-retries", "0", "--", "false")
    cli("worker", "start", "--drain", code=0)
    done = cli(*words, how, input="n\n")
    assert (1, "", True) == (done.code, done.out, done.err.endswith(" cancelled.\n")), done.err


def test_a_setting_that_is_refused_makes_no_store(cli, home):
    """It is checked first."""
    path = home.parent / "new.db"
    assert 1 == cli("--db", str(path), "config", "set", "lease", "x").code
    assert not path.exists()


ENDLESS = """
CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;
CREATE TRIGGER for_ever BEFORE UPDATE ON jobs BEGIN SELECT count(*) FROM endless; END;
"""


@pytest.mark.posix
@pytest.mark.parametrize("before", [(), ("--db", ".queuectl/jobs.db")])
def test_ctrl_c_ends_a_statement_that_takes_long(
    home: Path, before: Tuple[str, ...], background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """SQLite may be at one for minutes, in a store of millions: it is broken off at once, and undone."""
    with Queue(home / "jobs.db") as queue:
        queue.enqueue("true")
    with contextlib.closing(sqlite3.connect(str(home / "jobs.db"), isolation_level=None, timeout=0)) as db:
        db.executescript(ENDLESS)

        def is_locked() -> bool:
            try:
                db.executescript("BEGIN IMMEDIATE; ROLLBACK")
            except sqlite3.OperationalError:
                return True
            return False

        with background(*before, "cancel", "job1", cwd=home.parent) as cancel:
            eventually(is_locked, what="the statement")
            result = cancel.stop(signal.SIGINT)
        db.executescript("DROP TRIGGER for_ever; DROP VIEW endless")

    assert (130, "queuectl: interrupted.\n") == (result.code, result.err)
    with Queue(home / "jobs.db") as queue:
        assert "pending" == queue.get("job1").state
