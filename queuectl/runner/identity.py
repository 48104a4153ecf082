"""Which process is which: hosts, process start times, signals that reach the right process or none.

A pid alone names nobody: it is reused after the process ends. A process is (host, pid, start time).

Who cannot look does not know: without a free descriptor nothing here says that a process has ended.
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

#: This process, its user or the machine has no more of something; what could not be read for that may well be there.
OUT_OF = frozenset((errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
_GONE = frozenset((errno.ENOENT, errno.ESRCH, errno.ENOTDIR))
_HAS_PROC = sys.platform != "win32" and os.path.exists("/proc/self/stat")
# The environment of the programs that are asked where there is no /proc. cron's PATH does not lead to all of them; and
# the start of a process, which they print as a date, must read the same in every locale and time zone.
_PLAIN = {"PATH": "/bin:/usr/bin:/sbin:/usr/sbin", "LC_ALL": "C", "TZ": "UTC0"}
ORIGIN_LENGTH = 12
_known_host: Optional[str] = None


def host_name() -> str:
    """Return this host's name, for people."""
    # Not the platform module: it takes a worker 8 ms to import.
    if sys.platform == "win32":
        return os.environ.get("COMPUTERNAME") or "localhost"
    return os.uname().nodename or "localhost"


def host_id() -> str:
    """Return ``machine:boot:pids``: processes can see each other by pid if all three are equal.

    The third part is the pid namespace: a container has pids of its own.

    Raises:
        OSError: It cannot be found out now; another host's must not stand in for it.
    """
    global _known_host
    if _known_host is None:
        if sys.platform == "win32":  # pid and creation time are enough there: both together survive no new start
            from queuectl.runner.windows import machine_id

            _known_host = f"{machine_id() or host_name()}::"
        else:
            _known_host = f"{_machine()}:{_boot()}:{_pid_namespace()}"
    return _known_host


def boot_of(host: str) -> str:
    """Return the boot part of a host id."""
    return host.split(":")[1] if host.count(":") == 2 else ""


def _machine() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = _read(path)
        if text:
            return text
    return host_name().replace(":", "_")


def new_origin() -> str:
    """Return a random text that no other worker has: the ids under which one process registers begin with it."""
    return os.urandom(ORIGIN_LENGTH // 2).hex()


def origin_of(worker_id: str) -> str:
    """Return the origin with which *worker_id* begins: from the worker's supervisor, or its own."""
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
    """Return what tells the process *pid* from another with the same pid; None if it has ended.

    A zombie has ended: it only waits to be collected.

    Raises:
        OSError: That cannot be told now.
    """
    if _HAS_PROC:
        fields = stat_of(pid)
        return None if not fields or fields[0] in (b"Z", b"X") else fields[19].decode()
    if sys.platform == "win32":
        from queuectl.runner.windows import process_created

        return process_created(pid)
    answer = said_by("ps", "-o", "state=,lstart=", "-p", str(pid))
    state, _, started = answer.decode("ascii", "replace").strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def said_by(*words: str) -> bytes:
    """Return what a program of the system, ``ps`` say, prints: the same to every process of this machine.

    Raises:
        OSError: It could not be started.
    """
    import subprocess

    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_PLAIN, check=False).stdout


def start_time_at(mono_s: float) -> Optional[int]:
    """Return the instant *mono_s* of the monotonic clock as a process's start time; None where that is no number.

    Start times count the time that the machine slept, the monotonic clock does not. All sleep is taken to be
    later than *mono_s* was: a bound that may be too late, never too early.
    """
    if sys.platform == "win32" or not _HAS_PROC or not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    slept_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return int((mono_s + slept_s) * os.sysconf("SC_CLK_TCK")) + 1


def as_start_time(started: str) -> Optional[int]:
    """Return what ``process_started`` said as a number of which the later is greater; None where it is none."""
    return int(started) if sys.platform == "linux" and started.isdigit() else None


def birth_of(pid: int) -> Optional[int]:
    """Return a process's start time as a number, a zombie's too; None if there is no process or no number.

    Raises:
        OSError: That cannot be told now.
    """
    fields = stat_of(pid) if sys.platform == "linux" and _HAS_PROC else []
    return int(fields[19]) if fields else None


def name_process(name: str) -> None:
    """Have ``top``, ``ps -e`` and ``pgrep`` call this process *name* (15 bytes of it); Linux, elsewhere nothing.

    It was started as ``python3 -c ...``, and dozens of ``python3`` tell nobody which of them is which.
    """
    if _HAS_PROC:
        try:
            with open("/proc/self/comm", "w", encoding="ascii") as file:
                file.write(name)
        except OSError:  # a courtesy: BSDs with a /proc of their own, containers that make it read-only
            pass


def is_running(pid: int, started: str) -> bool:
    """Say whether the very process that started then still runs, or may do so: where nobody can look, it does."""
    try:
        return process_started(pid) == started
    except OSError:
        return True


def is_stopped(pid: int) -> bool:
    """Say whether a process was stopped by a signal such as Ctrl-Z's; never where that cannot be told."""
    try:
        return stat_of(pid)[:1] == [b"T"]
    except OSError:
        return False


def stat_of(pid: int) -> List[bytes]:
    """Return the fields of a process's line in the process table behind its name; none if there is no process.

    Not by ``open``: who watches over workers asks all the time, and the file object costs more than the reading.

    Raises:
        OSError: There may be one, but nobody can look: no descriptor or memory is left, or it is not for this user.
    """
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


def reap_orphans(mine: Container[int]) -> None:
    """Take the exit codes of children that are not *mine*: to process 1 of a container come all whose parent is gone.

    Not taken, they stay as zombies and count against the container's limit of processes.
    """
    if sys.platform == "linux":
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in mine:  # of mine its Popen wants to hear
                return
            os.waitpid(found.si_pid, 0)


def send_signal(pid: int, started: str, number: int) -> bool:
    """Send a signal to the very process that started then; False if it has ended.

    Where there are pidfds the process is pinned before its start time is read, so that the pid
    cannot pass to another between the look and the signal. On Windows every signal ends the process.

    Raises:
        OSError: Which process has the pid cannot be told now; nobody got the signal.
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
