"""One shell command on Windows: started in a job object of its own, read, and ended with its whole tree.

A worker that dies takes its commands with it: its handles are closed before anybody can see that it is gone,
and with the last handle of a job object Windows ends every process in it. Recovery only has to look.
"""

from __future__ import annotations

import os
import sys
import time

assert sys.platform == "win32"

import _overlapped  # type: ignore[import-not-found,unused-ignore] # what asyncio's pipes are made of
import _winapi

from queuectl.runner import windows_api
from queuectl.runner.output import OutputBuffer
from queuectl.runner.windows_api import JobObject, Usage
from queuectl.runner.windows_spawn import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Container, Dict, List, Mapping, Optional, Sequence, Tuple

CHUNK = 32768
# What the machine lacks, not the job: handles, memory, an internal error, resources, commit charge, quota.
TRANSIENT = frozenset((4, 8, 14, 1359, 1450, 1455, 1816))
PATIENCE_S = 5.0

process_created = windows_api.process_created
end_process = windows_api.end_process


class Command:
    """A running command and its tree."""

    __slots__ = (
        "_ending", "_job", "_pipe", "_port", "_process", "_read", "_reads", "buffer", "pid", "started",
    )  # fmt: skip

    def __init__(self, pid: int, process: int, job: JobObject, pipe: int, limit: int) -> None:
        self.pid = pid
        self.buffer = OutputBuffer(limit)
        self.started: Optional[str] = None  # the first process's start time, once somebody looked
        self._process: Optional[int] = process  # a pid is not given out again while there is a handle
        self._job = job
        self._ending = False
        self._pipe: Optional[int] = pipe
        self._read: Any = None  # the read that Windows is busy with
        self._reads: Dict[int, Any] = {}

    @property
    def process(self) -> int:
        """The handle of the first process, for whoever waits for its end."""
        return self._process or 0

    def fileno(self) -> int:
        """Return a number that stands for the command's output, -1 after its end."""
        return -1 if self._pipe is None else self._pipe

    def attach(self, port: int, reads: Dict[int, Any]) -> None:
        """Begin to read; each read that is done is told to the completion port *port*.

        *reads* keeps what Windows writes into until the port has told of it, by address.
        """
        assert self._pipe is not None
        _overlapped.CreateIoCompletionPort(self._pipe, port, 0, 0)
        self._reads = reads
        self._begin_read()

    def _begin_read(self) -> None:
        assert self._pipe is not None
        read = _overlapped.Overlapped(0)
        try:
            read.ReadFile(self._pipe, CHUNK)
        except OSError:  # nobody writes any more
            self.close()
            return
        self._read = read
        self._reads[read.address] = (self, read)

    def read(self) -> bytes:
        """Return up to 32 KiB of new output, without waiting; empty if there is none or it ended.

        At the end of the output the pipe is closed: ``fileno()`` is -1 from then on.
        """
        if not self._has_read():
            return b""
        try:
            data: bytes = self._read.getresult()
        except OSError:
            self.close()
            return b""
        self._read = None
        if data:
            self.buffer.feed(data)
        # Nothing is not the end: a program may write nothing, and the read is told of it. At the end no read begins.
        self._begin_read()
        return data

    def _has_read(self) -> bool:
        """Say whether a read is done and not yet taken."""
        return self._pipe is not None and self._read is not None and not self._read.pending

    def drain(self, most: int = 1 << 20) -> bytes:
        """Read what the ended command left in the pipe; a child that goes on printing cannot hold this up."""
        pieces = []
        size = 0
        while size < most and self._has_read():
            pieces.append(self.read())
            size += len(pieces[-1]) or 1
        return b"".join(pieces)

    def exit_code(self) -> int:
        """Return what the first process exited with, as an unsigned number (0xC0000005 is an access violation)."""
        return int(_winapi.GetExitCodeProcess(self.process))

    def usage(self) -> Usage:
        """Return what the run used so far."""
        used, first = self._job.usage(), windows_api.process_usage(self.process)
        return Usage(used.peak_memory_bytes or first.peak_memory_bytes, used.cpu_s or first.cpu_s)

    def reaped(self) -> None:
        """Note that the first process has ended. Unless the run is being ended, what it left behind lives on."""
        if not self._ending:
            self._job.release()
            self._forget_process()

    def _forget_process(self) -> None:
        """Let the pid, by which the worker knows the run, be given out again."""
        if self._process is not None:
            _winapi.CloseHandle(self._process)
            self._process = None

    def terminate(self) -> None:
        """Ask the whole tree to end with a Ctrl-Break; where that is not possible, end it."""
        from queuectl.runner.windows_break import send_break

        self._ending = True
        send_break(self.pid, self._job.end)

    def kill(self) -> None:
        """End the whole tree."""
        self._ending = True
        self._job.end()

    def leftovers(self) -> bool:
        """Say whether anything of the tree is still alive."""
        if self._job.alive():
            return True
        self._job.close()
        self._forget_process()
        return False

    def leave(self) -> None:
        """Let go of the output as a worker that leaves does; here what still writes to it gets an error."""
        self.close()

    def close(self) -> None:
        """Let go of the output; what still writes to it gets an error."""
        if self._pipe is not None:
            if self._read is not None and self._read.pending:
                self._read.cancel()  # the port tells when that is done
            self._read = None
            _winapi.CloseHandle(self._pipe)
            self._pipe = None


def start(command: str, cwd: str, env: Mapping[str, str], run_id: int, store_id: str, limit: int) -> Command:
    """Begin *command* in *cwd* with the environment *env* (which carries the mark).

    Raises:
        CannotStart: See there.
    """
    from queuectl.runner import CannotStart

    _check(command, cwd)
    reading = writing = 0
    job: Optional[JobObject] = None
    try:
        job = JobObject()
        reading, writing = _pipe()
        pid, process = spawn(*command_line(command), cwd, env, _nothing(), writing, job)
        result = Command(pid, process, job, reading, limit)
        reading, job = 0, None
        return result
    except OSError as error:
        transient = getattr(error, "winerror", None) in TRANSIENT
        raise CannotStart(f"could not start: {error.strerror or error}", transient) from None
    except ValueError as error:
        raise CannotStart(f"could not start: {error}", False) from None
    finally:
        for handle in (reading, writing):
            if handle:
                _winapi.CloseHandle(handle)
        if job is not None:
            job.close()


def terminate(commands: Sequence[Command]) -> None:
    """Ask the whole trees of these commands to end."""
    for command in commands:
        command.terminate()


def kill(commands: Sequence[Command]) -> None:
    """End the whole trees of these commands."""
    for command in commands:
        command.kill()


def left_over(commands: Sequence[Command]) -> List[Command]:
    """Return those of these commands of whose trees anything is still alive."""
    return [command for command in commands if command.leftovers()]


def _check(command: str, cwd: str) -> None:
    """Refuse what cmd would misunderstand without a word."""
    from queuectl.runner import CannotStart

    if "\n" in command or "\r" in command:
        raise CannotStart("could not start: it has a line break, but cmd reads one line. Put it into a script", False)
    if cwd.startswith(("\\\\", "//")):
        # cmd would say so on its standard error and run the command in the Windows directory.
        raise CannotStart(f"cannot enter the directory {cwd}: cmd needs one with a drive letter", False)
    try:
        with os.scandir(cwd):
            pass
    except OSError as error:
        raise CannotStart(f"cannot enter the directory {cwd}: {error.strerror or error}", False) from None


_pipes = 0


def _pipe() -> Tuple[int, int]:
    """Return the handles of a new pipe: the reading end overlapped, the writing end one that children can inherit."""
    global _pipes
    _pipes += 1
    name = rf"\\.\pipe\queuectl-{os.getpid()}-{_pipes}-{os.urandom(8).hex()}"
    reading = _winapi.CreateNamedPipe(
        name,
        _winapi.PIPE_ACCESS_INBOUND | _winapi.FILE_FLAG_OVERLAPPED | _winapi.FILE_FLAG_FIRST_PIPE_INSTANCE,
        _winapi.PIPE_WAIT, 1, 65536, 65536, 0, _winapi.NULL,
    )  # fmt: skip
    try:
        writing = _winapi.CreateFile(
            name, _winapi.GENERIC_WRITE, 0, _winapi.NULL, _winapi.OPEN_EXISTING, 0, _winapi.NULL
        )
    except OSError:
        _winapi.CloseHandle(reading)
        raise
    os.set_handle_inheritable(writing, True)
    return reading, writing


_nul: Optional[int] = None


def _nothing() -> int:
    """Return a handle of NUL, opened once: every command's standard input."""
    global _nul
    if _nul is None:
        _nul = _winapi.CreateFile(
            "NUL", _winapi.GENERIC_READ, 0x3, _winapi.NULL, _winapi.OPEN_EXISTING, 0, _winapi.NULL
        )
        os.set_handle_inheritable(_nul, True)
    return _nul


def command_line(command: str) -> Tuple[str, str]:
    """Return the program and the command line that make cmd read *command* exactly as it is written.

    With /s it removes the first quote and the last one and touches nothing in between. The others switch off what
    the registry may have switched on: /d a command before each command, /v:off a meaning of "!".
    """
    shell = os.environ.get("COMSPEC", "")
    if not shell.lower().endswith("cmd.exe"):
        shell = os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "cmd.exe")
    return shell, f'"{shell}" /d /v:off /s /c "{command}"'


def machine_id() -> str:
    """Return what tells this machine from others: the id that its Windows got when it was installed."""
    import winreg

    try:
        with winreg.OpenKey(
            winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography", 0, winreg.KEY_READ | winreg.KEY_WOW64_64KEY
        ) as key:
            return str(winreg.QueryValueEx(key, "MachineGuid")[0])
    except OSError:
        return ""


def how_ended(status: int) -> Tuple[Optional[int], Optional[int]]:
    """Return (exit code, None): nothing ends by a signal here."""
    return status, None


def used(usage: Usage) -> Tuple[Optional[int], Optional[float]]:
    """Return a run's peak memory in bytes and its CPU time in seconds."""
    return usage.peak_memory_bytes or None, round(usage.cpu_s, 6)


def end_runs_at_once(
    store_id: str,
    run_ids: Container[int],
    leaders: Dict[int, Optional[str]],
    born_by: Optional[int] = None,
    born_after: Optional[int] = None,
    origin: str = "",
) -> bool:
    """Make sure that nothing is left of the runs of a worker that has ended; False if something would not go.

    Windows ended them with it, each as a whole; what was written down about their first processes
    is proof of it, and catches one that could not be put into its job object.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        left = {pid: created for pid, created in leaders.items() if created and process_created(pid) == created}
        if not left:
            return True
        for pid, created in left.items():
            end_process(pid, created)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
