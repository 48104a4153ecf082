"""One command on Windows: what cmd gets, what comes out, and what is left of its tree."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

if os.name != "nt":
    pytest.skip("about Windows: cmd, job objects, completion ports", allow_module_level=True)

import ctypes

from queuectl.runner import CannotStart, Command, end_runs_at_once, how_ended, start, used
from queuectl.runner.identity import host_id, process_started, send_signal
from queuectl.runner.reactor_windows import Reactor
from queuectl.runner.windows_api import process_table
from tests.conftest import WINE

PYTHON = f'"{sys.executable}"'
LIMIT = 1 << 20


class Bench:
    """Commands, and the reactor that hears of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reactor = Reactor((), None)
        self.started: List[Command] = []
        self.ends: Dict[int, Any] = {}

    def start(self, command: str, cwd: Optional[str] = None, limit: int = LIMIT, **env: str) -> Command:
        number = len(self.started) + 1
        mark = {"QUEUECTL_RUN_ID": str(number), "QUEUECTL_STORE_ID": "s"}
        found = start(command, cwd or str(self.folder), {**os.environ, **mark, **env}, number, "s", limit)
        self.started.append(found)
        self.ends.pop(found.pid, None)  # a pid is given out again once nobody has a handle of its process
        self.reactor.watch(found)
        return found

    def turn(self, timeout_s: float) -> None:
        """Wait once, as a worker does."""
        self.reactor.wait(timeout_s)
        for command in self.reactor.readable:
            command.read()
        for pid, status, usage in self.reactor.exits:
            self.ends[pid] = (status, usage)

    def until(self, told: Callable[[], Any], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not told():
            assert time.monotonic() < deadline, "it did not come about"
            self.turn(0.05)

    def end(self, command: Command, timeout_s: float = 30.0) -> int:
        """Wait for the end of the first process and return its exit code."""
        self.until(lambda: command.pid in self.ends, timeout_s)
        command.drain()
        command.reaped()
        return int(self.ends[command.pid][0])

    def run(self, command: str, **how: Any) -> bytes:
        """Run *command* to its end and return its output."""
        running = self.start(command, **how)
        self.end(running)
        return output(running)

    def close(self) -> None:
        for command in self.started:
            command.kill()
            command.close()


def output(command: Command) -> bytes:
    return b"".join(data for _, data in command.buffer.take()[0])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    opened = Bench(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def sleeper(tmp_path: Path) -> Callable[..., str]:
    """Return a command that writes its pid to a file and then sleeps."""
    script = tmp_path / "sleeper.py"
    script.write_text("import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    return lambda name: f'{PYTHON} "{script}" "{tmp_path / name}"'


def pid_in(bench: Bench, name: str) -> int:
    """Wait until a sleeper has written its pid."""
    path = bench.folder / name
    bench.until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def gone(pid: int, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while process_started(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# -- what goes in -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        pytest.param("echo hi", b"hi\r\n", id="plain"),
        pytest.param('echo "a  b"', b'"a  b"\r\n', id="quotes stay"),
        pytest.param('"cmd" /c echo hi', b"hi\r\n", id="begins with a quote"),
        pytest.param('echo a & echo "b"', b'a \r\n"b"\r\n', id="two commands, a quote at the end"),
        pytest.param("echo a^&b", b"a&b\r\n", id="caret"),
        pytest.param("echo %QUEUECTL_RUN_ID% 100% %NO_SUCH%", b"1 100% %NO_SUCH%\r\n", id="variables"),
        pytest.param("echo wow!", b"wow!\r\n", id="exclamation mark"),
        pytest.param("(echo a) && (echo b)", b"a\r\nb\r\n", id="brackets"),
    ],
)
def test_cmd_gets_the_command_as_it_is_written(bench: Bench, command: str, printed: bytes) -> None:
    """Every character of it; what they mean is cmd's to say."""
    got = bench.run(command)

    # Some releases of cmd print the blank before "&", some do not.
    assert got.replace(b" \r", b"\r") == printed.replace(b" \r", b"\r")


def test_a_program_with_blanks_in_its_path_and_quotes_in_its_words(bench: Bench) -> None:
    """The case that needs /s: a quote at either end of the line."""
    script = bench.folder / "my show.py"
    script.write_text("import sys; print(sys.argv[1:])")

    assert b"['a b', 'c']\r\n" == bench.run(f'{PYTHON} "{script}" "a b" "c"')


@pytest.mark.parametrize("name", ["with space", "a & b", "\u00e9\u6f22", "100%", "(x)"])
def test_the_directory_is_the_jobs(bench: Bench, name: str) -> None:
    """Whatever its name."""
    folder = bench.folder / name
    folder.mkdir()

    bench.run("echo hi> here.txt", cwd=str(folder))

    assert "hi" == (folder / "here.txt").read_text().strip()


@pytest.mark.parametrize(
    ("command", "cwd", "reason"),
    [
        ("echo hi", r"C:\no such folder", r"cannot enter the directory C:\no such folder: "),
        ("echo hi", r"\\server\share", r"cannot enter the directory \\server\share: cmd needs one with a drive letter"),
        ("echo a\necho b", None, "it has a line break, but cmd reads one line"),
        ("echo \0", None, "could not start"),
    ],
)
def test_what_cannot_be_started_says_why(bench: Bench, command: str, cwd: Optional[str], reason: str) -> None:
    """Else cmd would run half of it, or all of it somewhere else, and say nothing."""
    with pytest.raises(CannotStart) as error:
        bench.start(command, cwd=cwd)

    assert reason in error.value.reason
    assert not error.value.transient


def test_the_environment_is_the_jobs(bench: Bench) -> None:
    """One of two names that differ by case is the later one; any text may be a value."""
    script = "import os; print(ascii([os.environ['Q_NAME'], os.environ['Q_TEXT']]))"

    printed = bench.run(f'{PYTHON} -c "{script}"', Q_NAME="old", q_name="new", Q_TEXT="\u00fc \u6f22 & %PATH%")

    assert b"['new', '\\xfc \\u6f22 & %PATH%']\r\n" == printed


def test_standard_input_is_empty(bench: Bench) -> None:
    """A command that asks gets the end of the input."""
    assert b"b''\r\n" == bench.run(f'{PYTHON} -c "import sys; print(sys.stdin.buffer.read())"')


def test_no_other_handle_of_the_worker_goes_in(bench: Bench) -> None:
    """Not even one that any child could inherit."""
    path = bench.folder / "open"
    with open(str(path), "w") as file:
        os.set_inheritable(file.fileno(), True)
        running = bench.start(f'{PYTHON} -c "import time; print(1, flush=True); time.sleep(60)"')
        bench.until(lambda: running.buffer.total)
    path.unlink()  # Windows would refuse if anybody had it open

    assert not path.exists()


# -- what comes out ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 255, 256, 1000, 0xC0000005])
def test_the_exit_code_is_kept_as_it_is(bench: Bench, code: int) -> None:
    """More than eight bits of it."""
    running = bench.start(f'{PYTHON} -c "import os; os._exit({code if code < 2**31 else code - 2**32})"')

    assert (code, None) == how_ended(bench.end(running))


def test_a_program_that_does_not_exist_fails(bench: Bench) -> None:
    """As cmd says, in the output and with a code."""
    running = bench.start("no-such-program-anywhere")

    assert 0 != bench.end(running)
    assert b"no-such-program-anywhere" in output(running)


def test_all_output_arrives_in_order(bench: Bench) -> None:
    """Both streams through one pipe, to the last byte before the end is told."""
    script = bench.folder / "print.py"
    script.write_text(
        "import os\nfor at in range(3000):\n    os.write(1 + at % 2, b'%06d' % at + b'x' * 93 + b'\\n')\n"
    )

    printed = bench.run(f'{PYTHON} "{script}"', limit=1 << 20).replace(b"\r", b"")

    assert printed == b"".join(b"%06d" % at + b"x" * 93 + b"\n" for at in range(3000))


NOTHING = """
import _winapi, msvcrt, os, time
def write(data):
    _winapi.WriteFile(msvcrt.get_osfhandle(1), data)
write(b"before ")
time.sleep({pause})
write(b"")
time.sleep({pause})
write(b"after")
"""


@pytest.mark.parametrize("pause", [0, 0.2])
def test_writing_nothing_does_not_end_the_output(bench: Bench, pause: float) -> None:
    """A program that writes no bytes goes on to be heard. Windows tells the reader of such a write, Wine does not."""
    (bench.folder / "nothing.py").write_text(NOTHING.format(pause=pause))

    assert b"before after" == bench.run(f"{PYTHON} nothing.py")


def test_output_without_end_takes_no_memory(bench: Bench) -> None:
    """It is read and cut, and the command ended in the middle of it."""
    script = bench.folder / "flood.py"
    script.write_text("import os\nwhile True:\n    os.write(1, b'x' * 65536)\n")
    running = bench.start(f'{PYTHON} "{script}"', limit=1000)

    bench.until(lambda: running.buffer.total > 4 << 20)
    running.kill()
    bench.end(running)

    assert 1000 == sum(len(data) for _, data in running.buffer.take()[0])


def test_a_child_that_holds_the_pipe_delays_nothing(bench: Bench, sleeper: Callable[..., str]) -> None:
    """The end is told when the command ends; the child lives on, and what it prints is still taken."""
    running = bench.start(f"start /b {sleeper('child').replace(PYTHON, sys.executable, 1)} & echo done")

    assert 0 == bench.end(running)
    assert b"done" in output(running)
    assert running.fileno() >= 0
    child = pid_in(bench, "child")
    assert process_started(child)
    send_signal(child, process_started(child) or "", 9)
    bench.until(lambda: running.fileno() < 0)


def test_what_a_run_used_is_known(bench: Bench) -> None:
    """CPU time in seconds; peak memory where the job object counts it."""
    running = bench.start(f'{PYTHON} -c "sum(range(10**7))"')
    bench.end(running)

    memory, cpu_s = used(bench.ends[running.pid][1])
    assert cpu_s is not None
    # Of a process that has ended Wine tells the time that the asking one has used.
    assert 0 <= cpu_s < 60 + (time.process_time() if WINE else 0)
    assert memory is None or memory > 100_000


@pytest.mark.no_wine("its job objects count neither memory nor time")
def test_a_run_is_charged_for_its_whole_tree(bench: Bench) -> None:
    """Of which cmd itself used next to nothing."""
    running = bench.start(f'{PYTHON} -c "data = bytearray(64 << 20); sum(range(10**7))"')
    bench.end(running)

    memory, cpu_s = used(bench.ends[running.pid][1])
    assert (memory or 0) > 64 << 20
    assert (cpu_s or 0) > 0.05


# -- what is left -----------------------------------------------------------------------------


def test_kill_ends_the_whole_tree(bench: Bench, sleeper: Callable[..., str]) -> None:
    """Children, grandchildren, and those whose parents are gone."""
    script = bench.folder / "parent.py"
    script.write_text(f"import subprocess\nsubprocess.Popen({sleeper('orphan')!r})\n")
    running = bench.start(f'{PYTHON} "{script}" & {sleeper("child")}')
    pids = [pid_in(bench, "orphan"), pid_in(bench, "child")]

    running.kill()
    bench.end(running)
    bench.until(lambda: not running.leftovers(), 10)

    assert [True, True] == [gone(pid) for pid in pids]


def test_the_pid_of_a_run_that_is_being_ended_stays_its_own(bench: Bench, sleeper: Callable[..., str]) -> None:
    """As long as anything of it is alive: a worker knows its runs by pid, and another run must not get it."""
    command = bench.start(f'start "" /b {sleeper("pid")}')
    pid_in(bench, "pid")
    bench.until(lambda: command.pid in bench.ends)
    command._ending = True  # as after a timeout whose Ctrl-Break the first process alone obeyed
    command.reaped()

    assert command.leftovers()
    assert command.process
    command.kill()
    bench.until(lambda: not command.leftovers())
    assert not command.process


def test_a_run_that_is_asked_to_end_ends(bench: Bench, sleeper: Callable[..., str]) -> None:
    """By Ctrl-Break, or if that cannot be sent, at once."""
    running = bench.start(sleeper("child"))
    pid = pid_in(bench, "child")

    running.terminate()
    bench.end(running)
    bench.until(lambda: not running.leftovers(), 10)

    assert gone(pid)


@pytest.mark.no_wine("it sends no console events")
def test_a_program_that_hears_ctrl_break_may_tidy_up(bench: Bench) -> None:
    """It is not killed before its grace is over."""
    script = bench.folder / "tidy.py"
    script.write_text(
        "import signal, sys, time\n"
        "def tidy(number, frame):\n    print('tidy', flush=True)\n    sys.exit(5)\n"
        "signal.signal(signal.SIGBREAK, tidy)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    running = bench.start(f'{PYTHON} "{script}"')
    bench.until(lambda: running.buffer.total)

    running.terminate()
    bench.end(running)

    assert b"ready\r\ntidy\r\n" == output(running)


def test_a_run_that_succeeded_leaves_its_children_alone(bench: Bench, sleeper: Callable[..., str]) -> None:
    """Also after the worker has let go of everything."""
    running = bench.start(f"start /b {sleeper('child').replace(PYTHON, sys.executable, 1)} > nul 2>&1")
    assert 0 == bench.end(running)
    child = pid_in(bench, "child")

    running.close()
    time.sleep(0.2)

    created = process_started(child)
    assert created
    assert send_signal(child, created, 9)


HOLDER = """
import os, sys, time
sys.path.insert(0, {root!r})
from queuectl.runner import start
from queuectl.runner.reactor_windows import Reactor
reactor = Reactor((), None)
command = start({command!r}, {cwd!r}, dict(os.environ), 1, "s", 1000)
reactor.watch(command)
print(command.pid, flush=True)
time.sleep(60)
"""


def test_the_tree_dies_with_its_worker(bench: Bench, sleeper: Callable[..., str]) -> None:
    """However the worker ends: nobody has to look for what it left."""
    command = f"start /b {sleeper('orphan').replace(PYTHON, sys.executable, 1)} & {sleeper('child')}"
    code = HOLDER.format(root=os.environ["PYTHONPATH"], command=command, cwd=str(bench.folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        leader = int(worker.stdout.readline())
        created = process_started(leader)
        pids = [leader, pid_in(bench, "orphan"), pid_in(bench, "child")]

        worker.kill()
        worker.wait()

        assert end_runs_at_once("s", {1}, {leader: created})
        assert [True] * 3 == [gone(pid) for pid in pids]


STARTER = """
import os, sys
sys.path.insert(0, {root!r})
from queuectl.runner import start, windows_spawn
windows_spawn._knows_job_list = {knows}
print("ready", flush=True)
while True:
    start("ping -n 60 127.0.0.1 > nul", {cwd!r}, dict(os.environ), 1, "s", 1000)
"""


@pytest.mark.no_wine("a process that is killed while it makes another can bring all of Wine to a stop")
def test_a_worker_that_dies_while_it_starts_a_command_leaves_no_stray(bench: Bench) -> None:
    """Killed at any moment: none of its children runs, or waits to run, afterwards."""
    code = STARTER.format(root=os.environ["PYTHONPATH"], cwd=str(bench.folder), knows=True)
    for number in range(12):
        with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            time.sleep(0.05 + number * 0.013)
            worker.kill()
            worker.wait()
            deadline = time.monotonic() + 10
            while any(parent == worker.pid for _, parent in process_table().values()):
                assert time.monotonic() < deadline, "a child is left"
                time.sleep(0.05)


def test_recovery_ends_what_could_not_be_put_into_a_job_object(bench: Bench) -> None:
    """Known by pid and creation time, never by pid alone."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stray:
        created = process_started(stray.pid)

        assert end_runs_at_once("s", {1}, {stray.pid: "1"})
        assert stray.poll() is None
        assert end_runs_at_once("s", {1}, {stray.pid: created})
        assert 1 == stray.wait(10)


# -- hosts and processes ----------------------------------------------------------------------


def test_a_copy_of_a_machine_under_another_name_is_another_host() -> None:
    """Copies share the id that Windows got at its installation; what the environment says does not count."""
    machine, boot, name = host_id().split(":")
    code = "from queuectl.runner.identity import host_id; print(host_id())"
    env = {**os.environ, "COMPUTERNAME": "ELSEWHERE"}

    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env, check=True, text=True).stdout

    assert (True, "", os.environ["COMPUTERNAME"]) == (bool(machine), boot, name)
    assert host_id() == said.strip()


def test_a_process_is_known_by_its_creation() -> None:
    """The same for everybody who looks, and gone with the process, although its handle is kept."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        created = process_started(process.pid)
        assert created
        assert created == process_started(process.pid)
        assert str(process_table()[process.pid][0]) == created

        process.communicate(b"\n")

        assert process_started(process.pid) is None


def test_nobody_is_ended_in_anothers_place() -> None:
    """The pid has passed to another process since: nothing happens."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not send_signal(process.pid, "1", 9)
        assert process.poll() is None
        process.communicate(b"\n")


def test_nothing_is_left_open(bench: Bench) -> None:
    """A worker that has run a hundred commands has no more handles than before."""

    def handles() -> int:
        count = ctypes.c_ulong()
        ctypes.windll.kernel32.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(count))
        return count.value

    bench.run("echo hi")
    before = handles()
    for _ in range(100):
        bench.run("echo hi")

    assert handles() - before < 20
