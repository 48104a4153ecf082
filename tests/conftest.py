"""Shared fixtures: a home of its own for each test, commands as real processes, nothing left running.

``home`` is in force for every test: a short scratch folder is the working directory and ``HOME``,
``QUEUECTL_HOME`` is ``.queuectl`` in it, and no other ``QUEUECTL_*`` variable is set. When a test
is over, a process that still carries its home in its environment is killed, and the test fails.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, TypeVar, Union

import pytest

import queuectl

WINDOWS = os.name == "nt"
WINE = WINDOWS and bool(shutil.which("winepath"))
PACKAGE_PARENT = str(Path(queuectl.__file__).resolve().parent.parent)

#: A test that takes longer is broken; ``@pytest.mark.limit(seconds)`` sets another bound.
LIMIT_S = 120
#: How long a process that was told to end may take before it counts as left behind.
LEAVING_S = 2.0
WINE_COULD_NOT_START = 1359
#: ``queuectl``, as the installed script starts it: ``python -m`` imports more.
QUEUECTL = [sys.executable, "-c", "from queuectl.main import main; main()"]

T = TypeVar("T")

try:
    import hypothesis
except ImportError:  # only the property tests need it
    pass
else:
    # The machines that run this are shared: a slow example says nothing about the code.
    hypothesis.settings.register_profile("queuectl", deadline=None)
    hypothesis.settings.load_profile("queuectl")

# A shell starts what it runs in the background with Ctrl-C ignored, nohup with the end of a terminal ignored, and every
# process of the tests would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Result(NamedTuple):
    """What one finished command printed, and its exit code; bytes if it was called with ``binary=True``."""

    out: Any
    err: Any
    code: int


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Skip on Windows what is marked as needing POSIX, and under Wine what that cannot do; the mark says why."""
    for name, here in (("posix", WINDOWS), ("no_wine", WINE)):
        for item in items if here else ():
            mark = item.get_closest_marker(name)
            if mark:
                reason = mark.args[0] if mark.args else "POSIX signals, process groups, or commands for /bin/sh"
                item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))
    _begin_with_the_long_ones(items)


def _begin_with_the_long_ones(items: List[pytest.Item]) -> None:
    """Put what is marked ``long`` where each process of xdist begins, so that none of it is alone at the end."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    ordered: List[pytest.Item] = []
    for at in range(count):
        end = len(ordered) + (len(items) - len(ordered)) // (count - at)  # as --dist=worksteal deals them out
        ordered += first[at::count]
        room = max(0, end - len(ordered))
        ordered += others[:room]
        del others[:room]
    items[:] = ordered


def pytest_make_parametrize_id(val: object) -> Optional[str]:
    """Keep a test's name short: pytest puts it into the environment, where 128 KiB is the most Linux takes."""
    if isinstance(val, (str, bytes)) and len(val) > 60:
        return f"{val[:20]!a}...({len(val)})"
    return None


# -- the scratch home -------------------------------------------------------------------------


def said_by(words: List[str], cwd: Path) -> str:
    """Run a program that must succeed and return what it says on both outputs."""
    done = subprocess.run(
        words, cwd=str(cwd), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
    )
    text = done.stdout.decode("utf-8", "replace").replace("\r\n", "\n")
    assert 0 == done.returncode, text
    return text


@pytest.fixture(autouse=True)
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test's own QUEUECTL_HOME (not made yet); the working directory is its parent.

    The path is short because it holds FIFOs and sockets, whose paths are limited to about 100 bytes.
    """
    scratch = Path(os.path.realpath(tempfile.mkdtemp(prefix="q")))
    path = scratch / ".queuectl"
    for name in list(os.environ):
        if name.startswith("QUEUECTL_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.setenv("USERPROFILE", str(scratch))
    monkeypatch.setenv("QUEUECTL_HOME", str(path))
    # Workers are started by exec, from any directory: they import the package under test.
    monkeypatch.setenv("PYTHONPATH", PACKAGE_PARENT)
    if WINDOWS:
        monkeypatch.setenv("PATH", _commands_for_cmd() + os.pathsep + os.environ["PATH"])
    monkeypatch.chdir(scratch)
    marker = request.node.get_closest_marker("limit")
    restore = _set_alarm(float(marker.args[0]) if marker else LIMIT_S)
    before = _pids()
    try:
        yield path
    finally:
        restore()
        left = _end_leftovers(path, before)
        monkeypatch.chdir(PACKAGE_PARENT)
        shutil.rmtree(str(scratch), ignore_errors=True)
    if left:
        pytest.fail("left running by this test (killed now):\n  " + "\n  ".join(left), pytrace=False)


@functools.lru_cache(maxsize=None)
def _commands_for_cmd() -> str:
    """Return a folder with the commands that tests use and Windows does not have."""
    folder = tempfile.mkdtemp(prefix="commands")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sleep = f'@"{sys.executable}" -S -c "import sys, time; time.sleep(float(sys.argv[1]))" %1\n'
    for name, lines in (("true", "@exit /b 0\n"), ("false", "@exit /b 1\n"), ("sleep", sleep)):
        Path(folder, name + ".bat").write_text(lines)
    return folder


def _set_alarm(seconds: float) -> Callable[[], None]:
    """Make the test fail after *seconds*; return what takes that back."""
    if WINDOWS:
        return lambda: None

    def ring(signum: int, frame: object) -> None:
        pytest.fail(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)

    def restore() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    return restore


def _pids() -> Set[str]:
    """Return the pids of all processes (Linux only)."""
    return set(filter(str.isdigit, os.listdir("/proc"))) if sys.platform == "linux" else set()


def _processes_of(home: Path, before: Set[str]) -> Dict[int, str]:
    """Return the live processes that have *home* in their environment and were not there *before*: commands by pid."""
    mark = b"QUEUECTL_HOME=" + os.fsencode(str(home)) + b"\0"
    found = {}
    for entry in _pids() - before:
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                environment = b"\0" + file.read() + b"\0"
            if b"\0" + mark in environment:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    found[int(entry)] = file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:  # it ended meanwhile, or is not ours to read
            continue
    return found


def _end_leftovers(home: Path, before: Set[str]) -> List[str]:
    """Kill what still runs in *home* after a moment's grace; return what that was."""
    deadline = time.monotonic() + LEAVING_S
    while True:
        running = _processes_of(home, before)
        if not running or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    told = [f"pid {pid}: {command}" for pid, command in running.items()]
    for _ in range(20):  # a supervisor may have replaced a worker that was killed before itself
        for pid in running:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if not running:
            break
        time.sleep(0.05)
        running = _processes_of(home, before)
    return told


# -- commands ---------------------------------------------------------------------------------


@pytest.fixture
def cli(home: Path) -> Callable[..., Result]:
    """Run ``queuectl WORD ...`` as a process and return its Result.

    ``cli("enqueue", "--", "echo", "hi")``. Keywords: *input* (text or bytes; without it standard
    input is empty), *timeout* (seconds), *env* (added; None as value removes), *cwd*, *binary* (bytes instead
    of text), *code* (assert this exit code).
    """

    def run(
        *words: Union[str, bytes, os.PathLike],
        input: Union[str, bytes, None] = None,
        timeout: float = 30.0,
        env: Optional[Dict[str, Optional[str]]] = None,
        cwd: Optional[Union[str, Path]] = None,
        binary: bool = False,
        code: Optional[int] = None,
    ) -> Result:
        data = input.encode("utf-8", "surrogateescape") if isinstance(input, str) else input
        done = steadily(
            lambda: subprocess.run(
                [*QUEUECTL, *words],  # type: ignore[list-item]
                input=data if data is not None else b"",
                capture_output=True,
                timeout=timeout,
                env=_environment(env),
                cwd=str(cwd) if cwd else None,
            )
        )
        result = Result(_text(done.stdout, binary), _text(done.stderr, binary), done.returncode)
        if code is not None:
            assert result.code == code, f"exit code {result.code}, not {code}; out: {result.out!r} err: {result.err!r}"
        return result

    return run


def _environment(changes: Optional[Dict[str, Optional[str]]]) -> Dict[str, str]:
    merged: Dict[str, str] = dict(os.environ)
    for name, value in (changes or {}).items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def _text(data: bytes, binary: bool) -> Union[str, bytes]:
    """Decode output so that comparing it as text loses nothing."""
    return data if binary else data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def steadily(start: Callable[[], T]) -> T:
    """Start a process. Wine on a busy machine answers now and then with an internal error: then once more."""
    try:
        return start()
    except OSError as error:
        if not WINE or getattr(error, "winerror", None) != WINE_COULD_NOT_START:
            raise
        return start()


class Background:
    """A queuectl process that runs on while the test does something else; in a session of its own.

    As a context manager it is stopped at the end: TERM, and then it has to be gone.
    """

    def __init__(self, words: List[str], folder: Path, env: Dict[str, str], cwd: Optional[str]) -> None:
        self.words = words
        self._env = env
        self._out_path = folder / "out"
        self._err_path = folder / "err"
        with open(str(self._out_path), "wb") as out, open(str(self._err_path), "wb") as err:
            self.process = steadily(
                lambda: subprocess.Popen(
                    [*QUEUECTL, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=env,
                    cwd=cwd,
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
            )
        self.pid = self.process.pid

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return str(_text(self._out_path.read_bytes(), False))

    @property
    def err(self) -> str:
        """What it has printed on standard error so far."""
        return str(_text(self._err_path.read_bytes(), False))

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send(self, number: int, group: bool = False) -> None:
        """Send a signal; to the whole group, as a terminal does at Ctrl-C, if *group*."""
        if self.running:
            if group:
                os.killpg(self.pid, number)
            else:
                self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> Result:
        """Wait for its end; fail the test if that does not come."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"queuectl {' '.join(self.words)} did not end within {timeout:g} s\n{self.out}{self.err}")
        return Result(self.out, self.err, code)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 30.0) -> Result:
        """Send a signal and wait for the end; on Windows, where a signal kills, workers are asked to stop."""
        if WINDOWS and self.words[:2] == ["worker", "start"] and self.running:
            words = [*QUEUECTL, "worker", "stop"]
            subprocess.run(words, env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=timeout)
        else:
            self.send(number)
        return self.wait(timeout)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


@pytest.fixture
def background(home: Path, tmp_path: Path) -> Iterator[Callable[..., Background]]:
    """Start ``queuectl WORD ...`` and go on; the test has to see to its end, or fails.

    ``with background("worker", "start") as worker:`` stops it. Keywords: *env* (as for ``cli``), *cwd*.
    """
    started: List[Background] = []

    def start(
        *words: str, env: Optional[Dict[str, Optional[str]]] = None, cwd: Optional[Union[str, Path]] = None
    ) -> Background:
        folder = tmp_path / f"background{len(started)}"
        folder.mkdir()
        process = Background(list(words), folder, _environment(env), str(cwd) if cwd else None)
        started.append(process)
        return process

    yield start
    left = []
    for process in started:
        if process.running:
            left.append(f"pid {process.pid}: queuectl {' '.join(process.words)}\n{process.out}{process.err}")
            process.process.kill()
        process.process.wait()
    if left:
        _end_leftovers(home, set())
        pytest.fail("not stopped by the test (killed now):\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Poll ``eventually(predicate, timeout=15.0, what="")`` until it is true; return what it returned.

    Test code waits for what it wants to see, to a deadline; it never sleeps and hopes. A predicate
    may also assert: an AssertionError counts as not yet, and is shown when the time is over.
    """

    def poll(predicate: Callable[[], T], timeout: float = 15.0, what: str = "", every: float = 0.01) -> T:
        deadline = time.monotonic() + timeout
        while True:
            trouble = ""
            try:
                value = predicate()
                if value:
                    return value
                trouble = f"last value: {value!r}"
            except AssertionError as error:
                trouble = str(error)
            if time.monotonic() > deadline:
                name = what or getattr(predicate, "__name__", "it")
                pytest.fail(f"{name} was not so within {timeout:g} s; {trouble}")
            time.sleep(every)

    return poll
