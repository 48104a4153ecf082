"""One shell command on Windows: start it in a job object of its own, read its output, end it with its whole tree.

A worker that dies takes its commands with it. Windows closes its handles before any other process can see that it is
gone, and when the last handle of a job object is closed, Windows ends every process in it. So recovery only has to
make sure that nothing is left.
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
# Errors that are the machine's fault, not the job's: handles, memory, internal error, resources, commit charge, quota.
TRANSIENT = frozenset((4, 8, 14, 1359, 1450, 1455, 1816))
PATIENCE_S = 5.0

computer_name = windows_api.computer_name
process_created = windows_api.process_created
end_process = windows_api.end_process


class Command:
    """A running command and its process tree."""

    __slots__ = (
        "_ending", "_job", "_pipe", "_port", "_process", "_read", "_reads", "buffer", "pid", "started",
    )  # fmt: skip

    def __init__(self, pid: int, process: int, job: JobObject, pipe: int, limit: int) -> None:
        self.pid = pid
        self.buffer = OutputBuffer(limit)
        self.started: Optional[str] = None  # the first process's start time, once it has been read
        self._process: Optional[int] = process  # while this handle is open, Windows does not reuse the pid
        self._job = job
        self._ending = False
        self._pipe: Optional[int] = pipe
        self._read: Any = None  # the overlapped read that is under way or not yet taken
        self._reads: Dict[int, Any] = {}

    @property
    def process(self) -> int:
        """The handle of the first process, to wait for its end; 0 once it is closed."""
        return self._process or 0

    def fileno(self) -> int:
        """Return a number that stands for the command's output; -1 once the output has ended."""
        return -1 if self._pipe is None else self._pipe

    def attach(self, port: int, reads: Dict[int, Any]) -> None:
        """Begin to read the output; the completion port *port* reports each read that is done.

        *reads* keeps the structures and buffers that Windows writes to, by address, until the port has reported them.
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
        except OSError:  # no process has the writing end any more
            self.close()
            return
        self._read = read
        self._reads[read.address] = (self, read)

    def read(self) -> bytes:
        """Return up to 32 KiB of new output, without waiting; empty if there is none now or no more.

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
        # An empty read is not the end, as a program may write zero bytes. At the end, the next read cannot begin.
        self._begin_read()
        return data

    def _has_read(self) -> bool:
        """Return whether a read is done and its data not taken yet."""
        return self._pipe is not None and self._read is not None and not self._read.pending

    def drain(self, most: int = 1 << 20) -> bytes:
        """Return what the ended command left in the pipe; stop at about *most* bytes, as a child may go on printing."""
        pieces = []
        size = 0
        while size < most and self._has_read():
            pieces.append(self.read())
            size += len(pieces[-1]) or 1
        return b"".join(pieces)

    def has_ended(self) -> bool:
        """Return whether the first process has ended."""
        return self._process is None or _winapi.WaitForSingleObject(self._process, 0) == _winapi.WAIT_OBJECT_0

    def exit_code(self) -> int:
        """Return the exit code of the first process, an unsigned number (0xC0000005 is an access violation)."""
        return int(_winapi.GetExitCodeProcess(self.process))

    def usage(self) -> Usage:
        """Return the memory and CPU time that the run has used so far."""
        used, first = self._job.usage(), windows_api.process_usage(self.process)
        return Usage(used.peak_memory_bytes or first.peak_memory_bytes, used.cpu_s or first.cpu_s)

    def reaped(self, lets_go: bool = True) -> None:
        """Note that the first process has ended; let the rest of the tree live on if *lets_go* and it is not ended."""
        if lets_go and not self._ending:
            self._job.release()
            self._forget_process()

    def _forget_process(self) -> None:
        """Close the handle of the first process, so that Windows may reuse its pid."""
        if self._process is not None:
            _winapi.CloseHandle(self._process)
            self._process = None

    def terminate(self) -> None:
        """Ask the whole tree to end, by a Ctrl-Break; if that cannot be sent, end the tree at once."""
        from queuectl.runner.windows_break import send_break

        self._ending = True
        send_break(self.pid, self._job.end)

    def kill(self) -> None:
        """End the whole tree."""
        self._ending = True
        self._job.end()

    def leftovers(self) -> bool:
        """Return whether any process of the tree is still alive; if none is, close the handles."""
        if self._job.alive():
            return True
        self._job.close()
        self._forget_process()
        return False

    def has_left(self) -> bool:
        """Return whether the ended command has left something that is still alive."""
        return self.leftovers()

    def leave(self) -> None:
        """Stop reading the output, before this worker exits; processes that still write get an error."""
        self.close()

    @staticmethod
    def most_lingering() -> int:
        """Return how many pipes of ended commands a worker keeps: all, as nobody else could read them."""
        return sys.maxsize

    def close(self) -> None:
        """Stop reading the output; processes that still write get an error."""
        if self._pipe is not None:
            if self._read is not None and self._read.pending:
                self._read.cancel()  # the port reports when this is done
            self._read = None
            _winapi.CloseHandle(self._pipe)
            self._pipe = None


def start(command: str, cwd: str, env: Mapping[str, str], run_id: int, store_id: str, limit: int) -> Command:
    """Start *command* in the directory *cwd* with the environment *env*, which carries the run's mark.

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
    """Return those of these commands of whose trees any process is still alive."""
    return [command for command in commands if command.leftovers()]


def _check(command: str, cwd: str) -> None:
    """Raise ``CannotStart`` for a command or directory that cmd would silently misunderstand."""
    from queuectl.runner import CannotStart

    if "\n" in command or "\r" in command:
        raise CannotStart("could not start: it has a line break, but cmd reads one line. Put it into a script", False)
    if cwd.startswith(("\\\\", "//")):
        # cmd would complain on its standard error and run the command in the Windows directory.
        raise CannotStart(f"cannot enter the directory {cwd}: cmd needs one with a drive letter", False)
    try:
        with os.scandir(cwd):
            pass
    except OSError as error:
        raise CannotStart(f"cannot enter the directory {cwd}: {error.strerror or error}", False) from None


_pipes = 0


def _pipe() -> Tuple[int, int]:
    """Return the handles of a new pipe: an overlapped reading end and an inheritable writing end."""
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
    """Return a handle of NUL, opened once, for the standard input of all commands."""
    global _nul
    if _nul is None:
        _nul = _winapi.CreateFile(
            "NUL", _winapi.GENERIC_READ, 0x3, _winapi.NULL, _winapi.OPEN_EXISTING, 0, _winapi.NULL
        )
        os.set_handle_inheritable(_nul, True)
    return _nul


def command_line(command: str) -> Tuple[str, str]:
    """Return the program and the command line that make cmd read *command* exactly as it is written.

    With /s, cmd removes the first quote and the last one and leaves everything in between alone. The other switches
    disable what the registry may enable: /d a command to run before each command, /v:off a special meaning of "!".
    """
    shell = os.environ.get("COMSPEC", "")
    if not shell.lower().endswith("cmd.exe"):
        shell = os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "cmd.exe")
    return shell, f'"{shell}" /d /v:off /s /c "{command}"'


def machine_id() -> str:
    """Return the id that Windows got at its installation, which copies of it share; empty if there is none."""
    import winreg

    try:
        with winreg.OpenKey(
            winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography", 0, winreg.KEY_READ | winreg.KEY_WOW64_64KEY
        ) as key:
            return str(winreg.QueryValueEx(key, "MachineGuid")[0])
    except OSError:
        return ""


def how_ended(status: int) -> Tuple[Optional[int], Optional[int]]:
    """Return (exit code, None), as no process ends by a signal on Windows."""
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
    """Make sure that nothing is left of the runs of a dead worker; return False if some process would not end.

    Windows has ended each run as a whole, together with the worker. That the noted first processes are gone proves
    it; one that could not be put into its job object is ended here.
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
