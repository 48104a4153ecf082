"""One shell command on POSIX: start it, read its output, end it with its whole process tree."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

assert sys.platform != "win32"

from queuectl.errors import why
from queuectl.runner import CannotStart, identity, tree
from queuectl.runner.output import OutputBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, AnyStr, Dict, List, Mapping, Optional, Sequence, Tuple

SHELL = "/bin/sh"
CHUNK = 65536
# Descriptors that commands must leave free: a worker needs some to read the process table and to send signals.
SPARE_DESCRIPTORS = 16
# Ended commands whose background processes hold their pipes may take this part of the descriptors.
LINGERING_PART = 4
# Errors on entering a directory that are the machine's fault, not the job's.
TRANSIENT = frozenset((errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE))
# Errors that are about the file they name.
_MISSING = frozenset((errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP, errno.EIO))
# ru_maxrss is in KiB, on macOS in bytes.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
# Signals that are reset to their default for each command, as users expect: Python ignores SIGPIPE and SIGXFSZ, and the
# background job of a shell inherits ignored SIGINT and SIGQUIT. All signals are named, as plain numbers: for each one
# that is left out, glibc makes two system calls in the child instead of one.
_DEFAULTS = sorted({int(number) for number in signal.valid_signals()} - {signal.SIGKILL, signal.SIGSTOP})


class Command:
    """A running command and its process tree. The first process, ``pid``, is the leader of a session of its own."""

    started: Optional[str] = None  # the leader's start time, once it has been read
    _reaped = False
    _born: Optional[int] = None

    def __init__(self, pid: int, fd: int, run_id: int, store_id: str, limit: int) -> None:
        self.pid = pid
        self.buffer = OutputBuffer(limit)
        self._fd: Optional[int] = fd
        self._run_id = run_id
        self._store_id = store_id

    def fileno(self) -> int:
        """Return the descriptor to read the command's output from; -1 once the output has ended."""
        return -1 if self._fd is None else self._fd

    def read(self) -> bytes:
        """Return up to 64 KiB of new output, without waiting; empty if there is none now or no more.

        At the end of the output the descriptor is closed: ``fileno()`` is -1 from then on.
        """
        if self._fd is None:
            return b""
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if data:
            self.buffer.feed(data)
        else:
            self.close()
        return data

    def drain(self, most: int = 1 << 20) -> bytes:
        """Return what the ended command left in the pipe; stop at about *most* bytes, as a child may go on printing."""
        found = data = self.read()
        while data and len(found) < most:
            data = self.read()
            found += data
        return found

    def reaped(self, lets_go: bool = True) -> None:  # noqa: ARG002
        """Note that the leader was reaped: from now on its pid may be another process's."""
        self._reaped = True

    def has_left(self) -> bool:
        """Return whether the ended command seems to have left something: of its group, or that may still print.

        A daemon, which has left the group and has its output elsewhere, does not count. A zombie does for a while.
        """
        if self._fd is not None:
            poll = select.poll()
            poll.register(self._fd, 0)
            if not poll.poll(0):  # at the end of the output this reports a hang-up
                return True
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # of another user
            return True
        return True

    def has_ended(self) -> Optional[bool]:
        """Return whether the leader has ended, without reaping it; None where that cannot be found out."""
        if self._reaped:
            return True
        if not hasattr(os, "waitid"):  # macOS before Python 3.13 has none
            return None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _leader(self) -> Dict[int, Optional[str]]:
        return {self.pid: self.started or "" if self._reaped else None}

    def _birth(self) -> Optional[int]:
        """Return the leader's start time as a number; None if it is not known or not a number."""
        if self._born is None and self.started:
            self._born = identity.as_start_time(self.started)
        elif self._born is None and not self._reaped:
            self._born = identity.birth_of(self.pid)
        return self._born

    def _signal_group(self, number: int) -> None:
        if not self._reaped:  # so the pid, which is the group's number too, still belongs to the leader
            tree.send_group(self.pid, number)

    def leave(self) -> None:
        """Stop reading the output, before this worker exits, in a way that lets processes that still write go on.

        A new process, ``cat``, reads and drops the output until nobody writes any more.
        """
        if self._fd is None:
            return
        try:
            os.set_blocking(self._fd, True)
            # That process gets nothing of the worker but the pipe: no mark, by which it would be taken for part of a
            # run, no terminal, and not the working directory, which a user may want to unmount.
            words = [SHELL, "-c", "cd /; exec cat >/dev/null 2>&1"]
            _spawn(words, {"PATH": os.environ.get("PATH", os.defpath)}, self._fd, _nothing())
        except (OSError, ValueError):
            pass  # the machine has no room for another process; those that still write get SIGPIPE
        self.close()

    @staticmethod
    def most_lingering() -> int:
        """Return how many pipes of ended commands a worker keeps, of those that background processes still hold."""
        return _descriptors_for_commands() // LINGERING_PART

    def close(self) -> None:
        """Stop reading the output; processes that still write get SIGPIPE."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class _Runs:
    """Several commands of one store, to be found in one look at the process table, which takes milliseconds."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self.store_id = commands[0]._store_id
        self.run_ids = {command._run_id for command in commands}
        self.leaders: Dict[int, Optional[str]] = {}
        for command in sorted(commands, key=lambda command: not command._reaped):
            self.leaders.update(command._leader())  # leaders not reaped yet go last and win: their pids are certain
        births = [command._birth() for command in commands]
        known = [birth for birth in births if birth is not None]
        self.born_after = min(known) if len(known) == len(births) else None


def terminate(commands: Sequence[Command]) -> None:
    """Send TERM to the whole trees of these commands, of one store, and continue what is suspended in them."""
    try:
        runs = _Runs(commands)  # before any signal: when a leader has ended, descent from it can no longer be seen
        found = tree.members(runs.store_id, runs.run_ids, runs.leaders, born_after=runs.born_after)
    except OSError:  # out of descriptors, say: signal at least the groups; the rest is killed later
        found = []
    groups = {command.pid for command in commands if not command._reaped}
    # Parents first: a shell whose child has ended before it gets the signal itself goes on to its next command.
    others = [process for process in reversed(found) if process.group not in groups]
    for number in (signal.SIGTERM, signal.SIGCONT):  # a suspended process takes the one only after the other
        for command in commands:
            command._signal_group(number)
        tree.send(others, number)


def kill(commands: Sequence[Command]) -> None:
    """Send KILL to the whole trees of these commands, of one store."""
    try:
        runs = _Runs(commands)
        found = tree.stopped(runs.store_id, runs.run_ids, runs.leaders, born_after=runs.born_after)
        tree.send(found, signal.SIGKILL)
    except OSError:
        pass  # ``left_over`` will report the commands until the process table can be read again
    for command in commands:
        command._signal_group(signal.SIGKILL)  # works even if the process table cannot be read


def left_over(commands: Sequence[Command]) -> List[Command]:
    """Return those of these commands, of one store, of whose trees any process may be alive.

    A command is left out only if two looks found nothing: a process that forks may escape a single look.
    """
    clean = list(commands)
    try:
        for _ in range(2):
            if clean:
                runs = _Runs(clean)
                found = tree.alive(runs.store_id, {each._run_id: each._leader() for each in clean}, runs.born_after)
                clean = [command for command in clean if command._run_id not in found]
    except OSError:
        return list(commands)
    gone = set(clean)
    return [command for command in commands if command not in gone]


def start(command: str, cwd: str, env: Mapping[str, str], run_id: int, store_id: str, limit: int) -> Command:
    """Start *command* in the directory *cwd* with the environment *env*, which carries the run's mark.

    Call this from the main thread only: it changes the working directory of the whole process, which is / afterwards.

    Raises:
        CannotStart: See there.
    """
    _enter(cwd)
    reading = writing = -1
    try:
        reading, writing = os.pipe()
        if writing >= _descriptors_for_commands():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        os.set_blocking(reading, False)
        # The shell would take a command that begins with - or + for an option.
        words = [SHELL, "-c", command] if command[0] not in "-+" else [SHELL, "-c", "--", command]
        try:
            pid = _spawn(words, env, _nothing(), writing)
        except UnicodeEncodeError:
            tidy = {_bytes(name): _bytes(text) for name, text in env.items()}
            pid = _spawn([_bytes(word) for word in words], tidy, _nothing(), writing)
        result = Command(pid, reading, run_id, store_id, limit)
        reading = -1
        return result
    except OSError as error:
        # The job has a say in the size of the words and variables alone. That the shell or /dev/null is missing is the
        # machine's fault: another may have them, and here each job would be dead in no time.
        transient = error.errno != errno.E2BIG
        lacking = f": {error.filename}, which every command needs" if error.errno in _MISSING and error.filename else ""
        raise CannotStart(f"could not start: {why(error, starting=True)}{lacking}", transient) from None
    except ValueError as error:
        raise CannotStart(f"could not start: {error}", False) from None
    finally:
        os.chdir("/")  # as long as the worker was in the job's directory, nobody could unmount the disk that it is on
        for fd in (reading, writing):
            if fd >= 0:
                os.close(fd)


_most: Optional[int] = None


def _descriptors_for_commands() -> int:
    """Return the lowest number that a command's descriptor must not have; the lowest free number is given out first."""
    global _most
    if _most is None:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        _most = sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(SPARE_DESCRIPTORS, limit // 4)
    return _most


_devnull: Optional[int] = None


def _nothing() -> int:
    """Return a descriptor of /dev/null, opened once, for the standard input of all commands."""
    global _devnull
    if _devnull is None:
        _devnull = os.open(os.devnull, os.O_RDONLY)
    return _devnull


def _enter(cwd: str) -> None:
    """Change to *cwd*, for a child to inherit: posix_spawn has no way to set it, and fork costs twice as much."""
    try:
        try:
            os.chdir(cwd)
        except UnicodeEncodeError:
            os.chdir(_bytes(cwd))
    except OSError as error:
        transient = error.errno in TRANSIENT
        raise CannotStart(f"cannot enter the directory {cwd}: {why(error)}", transient) from None


def _bytes(text: str) -> bytes:
    """Encode *text* as UTF-8, as it was enqueued, for a worker whose 7-bit locale cannot encode it."""
    return text.encode("utf-8", "surrogateescape")


def _spawn(words: List[AnyStr], env: Mapping[AnyStr, AnyStr], stdin: int, output: int) -> int:
    try:
        return os.posix_spawn(
            SHELL,
            words,
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=_DEFAULTS,
        )
    except NotImplementedError:  # a C library without POSIX_SPAWN_SETSID
        import subprocess

        mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())  # which the child inherits
        try:
            # What must not be inherited closes at the exec. Closed before that, it would not identify the child.
            child = subprocess.Popen(
                words, env=env, stdin=stdin, stdout=output, stderr=output, start_new_session=True, close_fds=False
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        child.returncode = 0  # the reactor reaps the child; Popen must not wait for it on its deletion
        return child.pid


def how_ended(status: int) -> Tuple[Optional[int], Optional[int]]:
    """Translate a wait status to (exit code, None) or (None, signal)."""
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def used(usage: Any) -> Tuple[Optional[int], Optional[float]]:
    """Return the peak memory in bytes and the CPU time in seconds from a resource usage."""
    return usage.ru_maxrss * RSS_UNIT, round(1e6 * (usage.ru_utime + usage.ru_stime)) / 1e6


end_runs_at_once = tree.end_at_once
