"""Which process is which: hosts, process start times, signals that reach the right process or none.

A pid alone does not identify a process, as pids are reused. A process is identified by (host, pid, start time).

Where the process table cannot be read, for want of a descriptor say, a process counts as alive: nothing here says
that a process has ended unless that was seen.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Container, List, Optional

#: Errors by which this process, its user or the machine has run out of something: what was to be read may well exist.
OUT_OF = frozenset((errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_GONE = frozenset((errno.ENOENT, errno.ESRCH, errno.ENOTDIR))
_HAS_PROC = sys.platform != "win32" and os.path.exists("/proc/self/stat")
# Whether /proc numbers the processes as another pid namespace does, where each number here is some other process.
_IS_FOREIGN = sys.platform == "linux" and _HAS_PROC and os.readlink("/proc/self") != str(os.getpid())
# The environment of the programs that are run where there is no /proc. The PATH that cron gives does not lead to all of
# them. And the start of a process, which they print as a date, must read the same in every locale and time zone.
_PLAIN = {"PATH": "/bin:/usr/bin:/sbin:/usr/sbin", "LC_ALL": "C", "TZ": "UTC0"}
ORIGIN_LENGTH = 12
# Where the number of threads is among what ``stat_of`` returns; field 20 of proc(5).
_THREADS = 17
_known_host: Optional[str] = None


def host_name() -> str:
    """Return this host's name, for people."""
    # Not by the platform module, whose import takes 8 ms.
    if sys.platform == "win32":
        return os.environ.get("COMPUTERNAME") or "localhost"
    return os.uname().nodename or "localhost"


def host_id() -> str:
    """Return ``machine:boot:pids``: processes can see each other by pid if all three parts are equal.

    The third part is the pid namespace, as a container has pids of its own. Any part may be empty, where the system
    does not tell it; a boot's id is random, so it identifies the machine as well. Windows has neither, and copies of a
    machine or of a container's image share the machine's id: the third part is the computer's name there.

    Raises:
        OSError: The id cannot be found out now; a guess might be another host's id.
    """
    global _known_host
    if _known_host is None:
        if sys.platform == "win32":  # no boot: no process has the pid and creation time of one before a restart
            from queuectl.runner.windows import computer_name, machine_id

            _known_host = f"{machine_id()}::{computer_name()}"
        else:
            machine, boot = _machine(), _boot()
            if not machine and not boot:  # a name is no identity: that of a laptop changes with the network
                machine = host_name().replace(":", "_")
            _known_host = f"{machine}:{boot}:{_pid_namespace()}"
    return _known_host


def _machine() -> str:
    """Return the machine's id; empty where it has none, as on macOS."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = _read(path)
        if text:
            return text
    return ""


def new_origin() -> str:
    """Return a random text, unique to one worker process: all ids under which the process registers begin with it."""
    return os.urandom(ORIGIN_LENGTH // 2).hex()


def origin_of(worker_id: str) -> str:
    """Return the origin with which *worker_id* begins."""
    return worker_id[:ORIGIN_LENGTH]


def _boot() -> str:
    text = _read("/proc/sys/kernel/random/boot_id")
    if text:
        return text
    try:
        return said_by("sysctl", "-n", "kern.bootsessionuuid").decode("ascii", "replace").strip()
    except OSError as error:
        if error.errno in OUT_OF:
            raise
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip().replace(":", "_")
    except OSError as error:
        if error.errno in OUT_OF:
            raise
        return ""


def process_started(pid: int) -> Optional[str]:
    """Return the start time of the process *pid*, as a text to compare; None if there is no such process.

    A zombie counts as ended: it only waits to be reaped.

    Raises:
        OSError: The process table cannot be read now.
    """
    if _HAS_PROC:
        fields = stat_of(pid)
        return None if has_ended(fields) else fields[19].decode()
    if sys.platform == "win32":
        from queuectl.runner.windows import process_created

        return process_created(pid)
    answer = said_by("ps", "-o", "state=,lstart=", "-p", str(pid))
    state, _, started = answer.decode("ascii", "replace").strip().partition(" ")
    if not state and _is_there(pid):  # ps is kept from looking, as in a chroot without /proc, or a sandbox of macOS
        raise OSError(errno.ENOSYS, "The process table cannot be read: ps shows nothing, and there is no /proc")
    return None if not started or state.startswith("Z") else started.strip()


def _is_there(pid: int) -> bool:
    """Return whether some process, be it a zombie, has this pid; not for Windows, where asking would end it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def said_by(*words: str) -> bytes:
    """Return the output of a system program such as ``ps``, in an environment that is the same for all callers.

    Raises:
        OSError: The program could not be started.
    """
    import subprocess

    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_PLAIN, check=False).stdout


def start_time_at(mono_s: float) -> Optional[int]:
    """Convert the instant *mono_s* of the monotonic clock to a process start time; None where these are not numbers.

    Start times include the time that the machine was asleep, the monotonic clock does not. All sleep is taken to have
    been before *mono_s*, so the result may be too late, but never too early.
    """
    if sys.platform == "win32" or not _HAS_PROC or not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    slept_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return int((mono_s + slept_s) * os.sysconf("SC_CLK_TCK")) + 1


def as_start_time(started: str) -> Optional[int]:
    """Return a text from ``process_started`` as a number that grows with time; None where it is not a number."""
    return int(started) if sys.platform == "linux" and started.isdigit() else None


def birth_of(pid: int) -> Optional[int]:
    """Return a process's start time as a number, even a zombie's; None if there is no such process or no number.

    Raises:
        OSError: The process table cannot be read now.
    """
    fields = stat_of(pid) if sys.platform == "linux" and _HAS_PROC else []
    return int(fields[19]) if fields else None


def name_process(name: str) -> bool:
    """Have ``top``, ``ps -e`` and ``pgrep`` show this process as *name*, of which 15 bytes count; Linux only.

    Without this, the processes of queuectl would all look the same. Returns whether it was done.
    """
    if _HAS_PROC:
        try:
            with open("/proc/self/comm", "w", encoding="ascii") as file:
                file.write(name)
            return True
        except OSError:  # BSDs with a /proc of their own, containers in which it is read-only
            pass
    return False


# -- the mark of a worker that was not started by exec, and has no environment of its own ---------

_NAME = "queuectl"  # what the names of all its processes begin with


def can_mark() -> bool:
    """Return whether this process and its forks can be marked; this names it."""
    if sys.platform != "linux" or not hasattr(os, "memfd_create"):
        return False
    try:
        os.close(os.memfd_create(_NAME))
    except OSError:
        return False
    return name_process(_NAME)


def mark(origin: str) -> None:
    """Mark this process as the worker of *origin*; so is what it forks, until that has become another program.

    The mark is an open descriptor of an empty file in memory that bears the origin in its name. It closes at an exec.
    """
    if sys.platform == "linux":
        os.memfd_create(f"{_NAME}-{origin}")


def has_mark(pid: int, origin: str) -> bool:
    """Return whether a process has the mark of *origin*. If not, its environment, read after this, is its own.

    That holds as an exec replaces the environment first, and then closes descriptors and changes the name.

    Raises:
        OSError: The process table cannot be read now.
    """
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            if not file.read().startswith(_NAME.encode()):
                return False
        folder = f"/proc/{pid}/fd/"
        name = f"/memfd:{_NAME}-{origin} (deleted)"
        return any(_link(folder + fd) == name for fd in os.listdir(folder))
    except OSError as error:
        if error.errno in OUT_OF:
            raise
        return False  # it has ended, or is another user's


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno in OUT_OF:
            raise
        return ""


def is_running(pid: int, started: str) -> bool:
    """Return whether the process with this pid and start time runs; True also if that cannot be told now."""
    try:
        found = process_started(pid)
    except OSError:
        return True
    return found == started or (found is None and is_hidden(pid))


def is_hidden(pid: int) -> bool:
    """Return whether another user's process has this pid, and /proc does not show it (hidepid=, ProtectProc=).

    When it was started cannot be told, so it may be any process, and has to count as the one that is looked for.
    """
    if sys.platform != "linux" or not _HAS_PROC:
        return False
    try:
        os.kill(pid, 0)
        return False
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return False
    try:
        return not stat_of(pid)
    except OSError as error:
        return error.errno not in OUT_OF


def is_stopped(pid: int) -> bool:
    """Return whether a process is suspended by a signal, as by Ctrl-Z; False where that cannot be seen."""
    try:
        return stat_of(pid)[:1] == [b"T"]
    except OSError:
        return False


def stat_of(pid: int) -> List[bytes]:
    """Return the fields of ``/proc/PID/stat`` from the state on; an empty list if there is no such process.

    Not read through ``open``: supervisors call this all the time, and the file object costs more than the reading.

    Raises:
        OSError: There may be a process, but no descriptor or memory is left, the user may not see it, or /proc shows
            another pid namespace.
    """
    if _IS_FOREIGN:
        raise OSError(errno.ENOSYS, "The process table cannot be read: /proc is that of another pid namespace")
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            return os.read(fd, 4096).rpartition(b")")[2].split()
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return []


def has_ended(fields: List[bytes]) -> bool:
    """Return whether what ``stat_of`` returned is of no process, or of one that only waits to be reaped.

    The state is that of the first thread. If that has ended and others go on, it is a zombie's, but the program runs.
    """
    return not fields or fields[0] == b"X" or (fields[0] == b"Z" and int(fields[_THREADS]) <= 1)


def reap_orphans(mine: Container[int]) -> None:
    """Reap ended children that are not *mine*: process 1 of a container inherits all processes whose parent is gone.

    Otherwise they would stay as zombies and count against the container's limit of processes.
    """
    if sys.platform == "linux":
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in mine:  # left for its Popen object to reap
                return
            os.waitpid(found.si_pid, 0)


def send_signal(pid: int, started: str, number: int) -> bool:
    """Send a signal to the process with this pid and start time; return False if it has ended, or is another user's.

    Where there are pidfds, the process is pinned before its start time is read, so that the pid cannot pass to
    another process between the check and the signal. On Windows, every signal ends the process.

    Raises:
        OSError: Which process has the pid cannot be told now; no signal was sent.
    """
    if sys.platform == "win32":
        from queuectl.runner.windows import end_process

        return end_process(pid, started)
    pin = None
    if sys.platform == "linux" and hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):  # novm
        try:
            pin = os.pidfd_open(pid)  # novm
        except ProcessLookupError:
            return False
        except OSError:
            pin = None
    try:
        if process_started(pid) != started:
            return False
        if sys.platform == "linux" and pin is not None:
            signal.pidfd_send_signal(pin, number)  # novm
        else:
            os.kill(pid, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        if pin is not None:
            os.close(pin)
