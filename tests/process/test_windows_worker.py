"""Workers on Windows: the README's options, stopping without signals, deaths, names and code pages."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

if os.name != "nt":
    pytest.skip("about Windows: no signals, consoles with code pages, files in use", allow_module_level=True)

from queuectl import Queue
from queuectl.console import LOG_BYTES, Console, LogFile
from queuectl.job import Job, Worker
from queuectl.runner import QUIT, console_events
from queuectl.runner.identity import process_started
from queuectl.runner.reactor_windows import Reactor
from queuectl.runner.windows_api import PROCESS_TERMINATE, kernel32

PYTHON = f'"{sys.executable}"'
SLEEP = "import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
WAIT = "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)\nprint('over')\n"


class Shop:
    """A store of the test's own, groups of workers on it, and commands that take their time."""

    def __init__(self, folder: Path, background: Callable[..., Any], eventually: Callable[..., Any]) -> None:
        self.folder = folder
        self.queue = Queue()
        self.eventually = eventually
        self._background = background
        (folder / "sleeper.py").write_text(SLEEP)
        (folder / "waiter.py").write_text(WAIT)

    def start(self, *words: str, count: int = 1, **how: Any) -> Any:
        """Start ``worker start`` and wait until its workers are there."""
        before = len(self.workers())
        group = self._background("worker", "start", "--count", str(count), *words, **how)
        self.eventually(lambda: len(self.workers()) == before + count, timeout=60, what=f"{count} workers")
        return group

    def workers(self) -> List[Worker]:
        return [worker for worker in self.queue.workers() if worker.role == "worker"]

    def sleeper(self, name: str = "pid") -> str:
        """Return a command that writes its pid to a file and sleeps for a minute."""
        return f"{PYTHON} sleeper.py {name}"

    def pid(self, name: str = "pid") -> int:
        """Wait until a sleeper has written its pid."""
        path = self.folder / name
        return int(self.eventually(lambda: path.exists() and path.read_text(), timeout=30, what=f"a pid in {name}"))

    def until(self, job_id: str, *states: str) -> Job:
        def there() -> Optional[Job]:
            job = self.queue.get(job_id)
            return job if job.state in states else None

        found: Job = self.eventually(there, timeout=30, what=f"{job_id} {' or '.join(states)}")
        return found

    def outcomes(self, job_id: str) -> List[str]:
        return [run.state for run in self.queue.runs(job_id)]


def terminate(pid: int, code: int) -> None:
    """End a process with this exit code, which ``os.kill`` cannot do for 0."""
    process = kernel32.OpenProcess(PROCESS_TERMINATE, False, pid)
    assert kernel32.TerminateProcess(process, code)
    kernel32.CloseHandle(process)


@pytest.fixture
def shop(home: Path, background: Callable[..., Any], eventually: Callable[..., Any]) -> Iterator[Shop]:
    with contextlib.ExitStack() as stack:
        opened = Shop(home.parent, background, eventually)
        stack.callback(opened.queue.close)
        yield opened


# -- the README's options ---------------------------------------------------------------------


def test_foreground_workers_and_another_terminal(shop: Shop, cli: Callable[..., Any]) -> None:
    """Option 1: workers in one terminal, commands in another; ``worker stop`` ends them."""
    group = shop.start(count=3)

    enqueued = cli("enqueue", '{"command":"echo another job"}', code=0)
    shop.until("job1", "completed")
    status = cli("status", code=0).out
    stopped = cli("worker", "stop", code=0)
    ended = group.wait()

    assert "Enqueued job job1\n" == enqueued.out
    assert "  completed: 1\n" in status
    assert "Stopped 3 workers.\n" == stopped.out
    assert 0 == ended.code
    for number in range(3):
        assert re.search(rf"^\[worker {number}\] pid=\d+ started$", ended.out, flags=re.M)
    said = re.search(
        r"\[worker (\d)\] picked job job1: echo another job\nanother job\n\[worker \1\] job job1 completed\n", ended.out
    )
    assert said, ended.out


def test_a_window_of_its_own(shop: Shop, cli: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    """Option 2: a .bat file that starts them; it returns at once."""
    script = shop.folder / "start_workers.bat"
    script.write_text(f'@echo off\nstart "Queue Workers" cmd /c "{PYTHON} -m queuectl worker start --count 3"\n')

    subprocess.run(["cmd", "/c", str(script)], timeout=30, check=True)

    eventually(lambda: len(shop.workers()) == 3, timeout=60)
    assert "Stopped 3 workers.\n" == cli("worker", "stop", code=0).out


def test_a_powershell_job_that_is_stopped(shop: Shop, eventually: Callable[..., Any]) -> None:
    """Option 3: ``Stop-Job`` kills the process that it started; the workers end by themselves."""
    group = shop.start(count=3)
    pids = [worker.pid for worker in shop.workers()]

    group.process.kill()
    group.wait()

    eventually(lambda: not any(map(process_started, pids)), timeout=20)
    assert [] == shop.workers()


def test_a_second_daemon_has_numbers_and_logs_of_its_own(shop: Shop, cli: Callable[..., Any], home: Path) -> None:
    """The numbers are in a file that each start locks."""
    for _ in range(2):
        cli("worker", "start", "--daemon", code=0, timeout=60)

    assert [0, 1] == sorted(worker.number for worker in shop.workers())
    assert "Stopped 2 workers.\n" == cli("worker", "stop", code=0).out
    for number in (0, 1):
        text = (home / "logs" / f"worker-{number}.log").read_text()
        assert 1 == text.count("] pid=") == text.count(f"[worker {number}] pid=")


def test_daemon(shop: Shop, cli: Callable[..., Any], home: Path) -> None:
    """The command returns once they live, tells their pids, and keeps no folder in use."""
    elsewhere = shop.folder / "elsewhere"
    elsewhere.mkdir()

    started = cli("worker", "start", "--count", "2", "--daemon", code=0, cwd=elsewhere, timeout=60)
    pids = sorted(worker.pid for worker in shop.workers())
    noted = json.loads((home / "pids.json").read_text())["pids"]
    elsewhere.rmdir()
    shop.queue.enqueue("echo hi", cwd=str(shop.folder))
    shop.until("job1", "completed")

    assert "Stopped 2 workers.\n" == cli("worker", "stop", code=0).out
    assert re.fullmatch(r"(Started worker pid=\d+\n){2}Saved PIDs to ~\\\.queuectl\\pids\.json\n", started.out)
    assert pids == sorted(map(int, re.findall(r"pid=(\d+)", started.out))) == sorted(noted)
    assert {"pids": []} == json.loads((home / "pids.json").read_text())
    log = "".join(path.read_text() for path in (home / "logs").glob("worker-*.log"))
    assert "job job1 completed" in log
    assert not list(home.glob("pids.json.*"))


# -- waking and stopping ----------------------------------------------------------------------


def test_service_install_writes_a_task(shop: Shop, cli: Callable[..., Any], home: Path) -> None:
    """For schtasks, which reads UTF-16; there is one to remove only if there is one."""
    missing = cli("service", "uninstall")
    installed = cli("service", "install", "--no-start", code=0).out

    assert f"queuectl: there is no scheduled task at {home / 'service.xml'}. Nothing was changed.\n" == missing.err
    assert f"Wrote {home / 'service.xml'}\nTo start it: schtasks /Create /F /TN queuectl /XML " in installed
    assert "<LogonTrigger>" in (home / "service.xml").read_text(encoding="utf-16")


def test_an_idle_worker_takes_a_job_at_once(shop: Shop) -> None:
    """Its bell rings: it does not wait for its next look."""
    group = shop.start()
    took = []
    for _ in range(5):
        time.sleep(0.3)  # idle again
        began = time.monotonic()
        job = shop.queue.enqueue("rem")
        while shop.queue.get(job.id).state == "pending":
            time.sleep(0.002)
        took.append(time.monotonic() - began)
    group.stop()

    assert sorted(took)[2] < 0.4, took


def test_stop_lets_the_running_job_finish(shop: Shop, cli: Callable[..., Any]) -> None:
    """No new one is taken."""
    shop.queue.enqueue(f"{PYTHON} waiter.py")
    shop.queue.enqueue("echo second")
    group = shop.start()
    shop.eventually(lambda: "begun" in group.out, timeout=30)

    slow = cli("worker", "stop", "--timeout", "0.5")
    shop.eventually(lambda: "received stop signal" in group.out, what="the worker hears")
    (shop.folder / "go").touch()
    ended = group.wait()

    assert 1 == slow.code
    assert "still running after 0.5 s" in slow.err
    assert (0, ["completed"], "pending") == (ended.code, shop.outcomes("job1"), shop.queue.get("job2").state)
    assert ended.out.count("received stop signal") == 1


def test_stop_now_puts_the_job_back(shop: Shop, cli: Callable[..., Any]) -> None:
    """At no cost of a retry, with its processes gone."""
    shop.queue.enqueue(shop.sleeper())
    group = shop.start()
    pid = shop.pid()

    began = time.monotonic()
    stopped = cli("worker", "stop", "--now")
    took_s = time.monotonic() - began

    assert ("Stopped 1 worker.\n", 0) == (stopped.out, group.wait().code)
    job = shop.queue.get("job1")
    assert ("pending", 0, ["stopped"]) == (job.state, job.failures, shop.outcomes("job1"))
    assert process_started(pid) is None
    assert took_s < 10


def test_what_a_failed_run_leaves_is_ended(shop: Shop) -> None:
    """Before its retry, which would meet it."""
    child = shop.sleeper("child").replace(PYTHON, sys.executable)
    shop.queue.enqueue(f"start /b {child} & {PYTHON} waiter.py & exit 3", max_retries=0)
    group = shop.start("--drain")
    pid = shop.pid("child")
    (shop.folder / "go").touch()

    assert 0 == group.wait().code
    assert ("dead", "exit 3") == (shop.queue.get("job1").state, shop.queue.get("job1").reason)
    assert process_started(pid) is None


def test_a_job_is_cancelled(shop: Shop, cli: Callable[..., Any]) -> None:
    """With its whole tree, also what it started in the background."""
    shop.queue.enqueue(f"start /b {shop.sleeper('child').replace(PYTHON, sys.executable)} & {shop.sleeper()}")
    group = shop.start()
    pids = [shop.pid("child"), shop.pid()]

    cli("cancel", "job1", code=0)
    shop.until("job1", "cancelled")

    assert [None, None] == list(map(process_started, pids))
    assert 0 == group.stop().code


def test_a_job_that_takes_too_long(shop: Shop) -> None:
    """Is ended with its tree; the reason says why."""
    shop.queue.enqueue(shop.sleeper(), timeout=2, max_retries=0)
    group = shop.start()
    pid = shop.pid()

    job = shop.until("job1", "dead")

    assert ("timed out after 2 s", ["timed_out"]) == (job.reason, shop.outcomes("job1"))
    assert process_started(pid) is None
    assert 0 == group.stop().code


def test_a_timeout_does_not_wait_for_the_store(shop: Shop) -> None:
    """Somebody holds the store's lock: what is late is ended meanwhile; what ends by itself has ended when it did.

    More output than a pipe holds is read meanwhile, so that whoever prints it can end.
    """
    shop.queue.set_setting("kill_grace", "0.5")
    shop.queue.set_setting("lease", "3")  # its renewal is what waits for the lock
    until_go = SLEEP.replace("time.sleep(60)", "while not os.path.exists('go'): time.sleep(0.02)")
    (shop.folder / "ender.py").write_text(f"{until_go}\nprint('x' * 300000)\n")
    late = [shop.queue.enqueue(shop.sleeper(f"late{after}"), timeout=after, max_retries=0).id for after in (6, 9)]
    by_itself = shop.queue.enqueue(f"{PYTHON} ender.py ender").id
    with shop.start("--concurrency", "3"):
        first, second, third = shop.pid("late6"), shop.pid("late9"), shop.pid("ender")
        with contextlib.closing(sqlite3.connect(shop.queue.store.location, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            shop.eventually(lambda: not process_started(first), timeout=20)
            (shop.folder / "go").touch()  # the worker is waiting by now
            shop.eventually(lambda: not (process_started(third) or process_started(second)), timeout=20)
            before_release = time.time()
        for job_id in late:
            shop.until(job_id, "dead")
        shop.until(by_itself, "completed")

    assert [["timed_out"], ["timed_out"]] == [shop.outcomes(job_id) for job_id in late]
    (run,) = shop.queue.runs(by_itself)
    assert (run.state, run.ended_at is not None and run.ended_at < before_release) == ("completed", True)
    assert b"x" * 300_000 == shop.queue.output(by_itself).strip()


def test_reset_stops_the_workers_first(shop: Shop, cli: Callable[..., Any]) -> None:
    """The store is open elsewhere, and Windows removes no open file: nothing of it needs to be removed."""
    shop.queue.enqueue(shop.sleeper())
    group = shop.start()
    pid = shop.pid()

    done = cli("reset", input="y\n", code=0)

    assert done.out.endswith("Queue reset.\n")
    assert (0, None) == (group.wait().code, process_started(pid))
    assert "Enqueued job job1\n" == cli("enqueue", "--", "echo", "hi").out


# -- deaths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1])
def test_a_killed_worker_is_replaced_and_its_job_runs_again(shop: Shop, code: int) -> None:
    """What it ran is gone before that; the loss costs no retry. Who ends a process also chooses its exit code."""
    shop.queue.enqueue(f"{shop.sleeper('pid%QUEUECTL_RUN_ID%')}", max_retries=0)
    group = shop.start()
    first = shop.pid("pid1")

    terminate(shop.workers()[0].pid, code)
    second = shop.pid("pid2")

    assert process_started(first) is None
    assert process_started(second)
    assert ["lost", "running"] == shop.outcomes("job1")
    shop.queue.cancel("job1")
    shop.until("job1", "cancelled")
    ended = group.stop()
    assert "job job1 lost, runs again" in ended.out
    assert f"[worker 0] died (exit {code}), restarts in " in ended.out


def test_everything_killed_at_once(shop: Shop, cli: Callable[..., Any]) -> None:
    """The next ``worker start`` finds the job and runs it, after the old run is gone."""
    shop.queue.enqueue(shop.sleeper("pid%QUEUECTL_RUN_ID%"))
    group = shop.start(count=2)
    pid = shop.pid("pid1")

    victims = [group.pid, *[worker.pid for worker in shop.workers()]]
    for victim in victims:
        os.kill(victim, signal.SIGTERM)
    group.wait()
    shop.eventually(lambda: not any(map(process_started, [*victims, pid])))
    assert "processing" == shop.queue.get("job1").state
    again = shop.start()

    shop.pid("pid2")
    assert ["lost", "running"] == shop.outcomes("job1")
    cli("worker", "stop", "--now", code=0)
    assert 0 == again.wait().code


def test_a_killed_supervisor_lets_jobs_finish(shop: Shop) -> None:
    """Its workers see it go, finish, and end by themselves."""
    shop.queue.enqueue(f"{PYTHON} waiter.py")
    group = shop.start()
    pid = shop.workers()[0].pid
    shop.eventually(lambda: "begun" in group.out, timeout=30)

    group.process.kill()
    group.wait()
    (shop.folder / "go").touch()

    shop.until("job1", "completed")
    shop.eventually(lambda: not process_started(pid), timeout=20)


# -- words, names and code pages --------------------------------------------------------------

SHOW = "import json, sys\nsys.stdout.write(json.dumps(sys.argv[1:]))\n"


def test_words_arrive_as_typed(shop: Shop, cli: Callable[..., Any]) -> None:
    """Through the command line, the store, cmd and the C runtime."""
    script = shop.folder / "my show & tell.py"
    script.write_text(SHOW)
    words = [
        "plain", "", "two words", 'say "hi"', "a&b|c<d>e", "100%", "a^b", "^^", "C:\\dir\\", "C:\\my dir\\", '\\"',
        "\\\\", '"', '"" ""', "!x!", "(a)", "it's", "'", "\u00fc\u6f22\U0001f600", "tab\there", "a,b;c=d", "*", "?",
        "{}", "@x", "/c",
    ]  # fmt: skip

    cli("enqueue", "--", sys.executable, str(script), *words, code=0)
    cli("worker", "start", "--drain", code=0, timeout=60)

    assert words == json.loads(shop.queue.output("job1"))


@pytest.mark.no_wine("its cmd looks for variables after carets are gone")
@pytest.mark.parametrize("word", ["%PATH%", "a%PATH%b", '"%PATH%"', "%PATH:~0,1%", "%%PATH%%"])
def test_a_word_like_a_variable_arrives_as_typed(shop: Shop, cli: Callable[..., Any], word: str) -> None:
    """There is no such variable for cmd: a caret stands in its name."""
    script = shop.folder / "show.py"
    script.write_text(SHOW)

    cli("enqueue", "--", sys.executable, str(script), word, code=0)
    cli("worker", "start", "--drain", code=0, timeout=60)

    assert [word] == json.loads(shop.queue.output("job1"))


@pytest.mark.parametrize("name", ["with space", "\u00e9\u6f22\U0001f600", "a & b (1)^"])
def test_a_home_of_any_name(cli: Callable[..., Any], home: Path, name: str) -> None:
    """Store, logs and jobs in a folder like those that people have."""
    folder = home.parent / name
    folder.mkdir()
    env: Dict[str, Optional[str]] = {"QUEUECTL_HOME": str(folder / "queue")}
    how: Dict[str, Any] = {"env": env, "cwd": folder, "code": 0, "timeout": 60}

    cli("enqueue", "--command", "echo hi> out.txt", **how)
    cli("worker", "start", "--daemon", **how)
    cli("wait", "job1", "--timeout", "30", **how)
    cli("worker", "stop", **how)

    assert "hi" == (folder / "out.txt").read_text().strip()
    assert {"jobs.db", "logs", "pids.json"} <= set(os.listdir(str(folder / "queue")))


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "cp65001", "ascii"])
def test_no_encoding_is_too_small(cli: Callable[..., Any], encoding: str) -> None:
    """What an output cannot show is escaped; JSON is whole everywhere."""
    command = "echo \u00fc \u6f22 \U0001f600"
    env: Dict[str, Optional[str]] = {"PYTHONIOENCODING": encoding}
    cli("enqueue", "--command", command, "--tag", "t", env=env, code=0)

    table = cli("list", "--table", env=env, code=0)
    shown = cli("show", "job1", env=env, code=0)
    listed = cli("list", env=env, code=0)
    drained = cli("worker", "start", "--drain", env=env, code=0, timeout=60)

    assert command == json.loads(listed.out)["command"]
    assert "echo" in table.out
    assert "echo" in shown.out
    assert "picked job job1: echo" in drained.out


# -- inside one process -----------------------------------------------------------------------


def test_a_lifeline_says_signals_and_the_end() -> None:
    """The supervisor's words to its workers; what comes after the end is nothing."""
    reading, writing = os.pipe()
    reactor = Reactor((), reading)
    seen = []

    def until(told: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 10
        while not told() and time.monotonic() < deadline:
            reactor.wait(0.1)
            seen.extend(reactor.signals)

    os.write(writing, bytes([signal.SIGTERM, QUIT]))
    until(lambda: len(seen) == 2)
    assert ([signal.SIGTERM, QUIT], False) == (seen, reactor.orphaned)
    os.close(writing)
    until(lambda: reactor.orphaned)
    assert reactor.orphaned


def test_ctrl_c_wakes_a_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C and Ctrl-Break count alike; the end of the window is said before Windows ends the process."""
    monkeypatch.setattr(console_events, "FAREWELL_S", 0.0)
    waiter = console_events.Waiter()
    began = time.monotonic()
    for event in (console_events.CTRL_C, console_events.CTRL_BREAK, console_events.CTRL_CLOSE):
        threading.Timer(0.1, waiter.handler, [event]).start()

    pressed: List[int] = []
    while len(pressed) < 3 and time.monotonic() - began < 10:
        pressed += waiter.wait([], 5.0)

    assert sorted([signal.SIGINT, signal.SIGINT, QUIT]) == sorted(pressed)
    assert time.monotonic() - began < 4


def test_a_supervisor_wakes_when_a_worker_ends() -> None:
    """At once, and not at its next look."""
    waiter = console_events.Waiter()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"]) as process:
        began = time.monotonic()
        waiter.wait([process], 20.0)

        assert time.monotonic() - began < 15


def test_a_supervisor_of_more_workers_than_one_call_waits_for() -> None:
    """The end of one of the first wakes it; for those beyond them it looks again soon."""
    waiter = console_events.Waiter()
    with contextlib.ExitStack() as stack:
        words = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
        processes = [stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE)) for _ in range(64)]
        for count in range(60, 65):
            assert [] == waiter.wait(processes[:count], 0.1)

        for process in (processes[0], processes[-1]):
            assert process.stdin is not None
            process.stdin.close()
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < 60:
                waiter.wait(processes, 20.0)
            assert 0 == process.returncode


def test_a_console_that_is_held_does_not_hold_the_worker() -> None:
    """As when somebody marks text with the mouse: nothing waits, and memory is bounded."""
    reading, writing = os.pipe()
    console = Console(writing)
    began = time.monotonic()
    for _ in range(200):
        console.raw(b"x" * 65536)
        console.release()
        console.flush()
    console.line("last")
    took_s = time.monotonic() - began
    console.finish(0.1)
    os.close(reading)

    assert took_s < 5
    assert len(console._held) + len(console._waiting) < 4 << 20


def test_a_log_that_somebody_reads_is_turned_over_later(home: Path) -> None:
    """A reader that does not share it, as most do, holds up the turn and loses nothing."""
    home.mkdir()
    path = home / "worker-0.log"
    path.write_bytes(b"x" * LOG_BYTES)
    log = LogFile(str(path))

    def say(word: str) -> None:
        log.line(word)
        log.release()
        log.flush()

    with open(str(path), "rb"):
        say("while it is read")
        say("still")
    assert not Path(f"{path}.1").exists()
    say("afterwards")
    say("anew")

    assert path.read_text().endswith("anew\n")
    assert re.search(r"while it is read\n.*still\n.*afterwards\n$", Path(f"{path}.1").read_text())
