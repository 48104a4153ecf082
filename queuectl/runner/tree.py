"""The processes of a run: found by session, descent and the run's mark, and ended. POSIX.

A run's mark is the pair QUEUECTL_STORE_ID, QUEUECTL_RUN_ID in a process's environment. It finds
descendants that left the session and whose parents are gone, as Jenkins does it; the session
finds those that emptied their environment.
"""

from __future__ import annotations

import os
import signal
import sys
import time

assert sys.platform != "win32"

from queuectl import faults
from queuectl.records import NamedTuple
from queuectl.runner import WORKER, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Container, Dict, Iterable, List, Mapping, Optional, Set, Tuple


_HAS_PROC = os.path.exists("/proc/self/stat")
# How often the table is read again for processes that were made while it was read.
MOST_LOOKS = 20


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    group: int
    session: int
    started: str


def members(
    store_id: str,
    run_ids: Container[int],
    leaders: Optional[Dict[int, Optional[str]]] = None,
    born_by: Optional[int] = None,
    born_after: Optional[int] = None,
    origin: str = "",
) -> List[Process]:
    """Return the living processes of these runs, children before their parents, this process never among them.

    Args:
        store_id: The store's id; half of the mark.
        run_ids: The runs.
        leaders: Pids of the runs' first processes, each with its start time or None if it has not been
            collected yet (so that the pid cannot have passed to another).
        born_by: When the runs' worker was last known to live, as a start time; None: it lives. If a leader is gone,
            its pid may have been given to the leader of a new session since: of a session with that number, only
            processes that started no later than this are the run's, and their descendants.
        born_after: A start time before which none of the runs had begun; None: not known. An older process cannot be
            part of them, so its environment is not read: on a machine with thousands of processes nearly all are.
        origin: What the id of the runs' dead worker begins with; empty: it lives. A command that it was starting when
            it died has the worker's environment, and no mark, until its exec.

    Raises:
        OSError: The process table cannot be read now; who is in it is not known.
    """
    table, found = _found(store_id, run_ids, leaders or {}, born_by, born_after, origin)
    return _children_first(table.processes, found, leaders or {})


def alive(store_id: str, runs: Mapping[int, Dict[int, Optional[str]]], born_after: Optional[int] = None) -> Set[int]:
    """Return which of *runs* have a living process: one look for all of them, by id, each with its leaders.

    The rest is as in ``members``.
    """
    leaders = {leader: started for own in runs.values() for leader, started in own.items()}
    table, found = _found(store_id, runs, leaders, None, born_after)
    if not found:
        return set()
    few = {pid: process for pid, process in table.processes.items() if pid in found or pid in leaders}
    marked: Dict[int, Set[int]] = {}
    for pid, run_id in table.marked.items():
        if pid in found:
            marked.setdefault(run_id, set()).add(pid)
    return {run_id for run_id, own in runs.items() if _belonging(few, marked.get(run_id, set()), own)}


def _found(
    store_id: str,
    run_ids: Container[int],
    leaders: Dict[int, Optional[str]],
    born_by: Optional[int],
    born_after: Optional[int],
    origin: str = "",
) -> Tuple[_Table, Set[int]]:
    """Return the process table, and who in it is of these runs; see ``members``."""
    table = _Table(store_id, run_ids, born_after, origin)
    found: Set[int] = set()
    # A process may fork and end while the table is read, which takes milliseconds. So what is new is read in another
    # look, which is quick; again as long as it shows a process of these runs, or may have missed one.
    table.look()
    for _ in range(MOST_LOOKS):
        fresh = table.look()
        found = _belonging(table.processes, table.marked, leaders, born_by)
        if not fresh & found and not table.missed:
            break
    found.discard(os.getpid())
    return table, found


def _belonging(
    table: Dict[int, Process],
    marked: Iterable[int],
    leaders: Dict[int, Optional[str]],
    born_by: Optional[int] = None,
) -> Set[int]:
    """Return who in *table* is marked, in a leader's session or group, or descends from one that is."""
    found = set(marked)
    sessions: Set[int] = set()
    orphaned: Set[int] = set()
    for leader, started in leaders.items():
        process = table.get(leader)
        if process is None:
            # A pid is not given out again while it names a session. It is once the session has ended.
            orphaned.add(leader)
        elif started is None or process.started == started:
            sessions.add(leader)
            found.add(leader)
    for pid, process in table.items():
        names = {process.session, process.group}
        if names & sessions or (names & orphaned and _started_by(process, born_by)):
            found.add(pid)
    _add_children(table, found)
    return found


def _children_first(table: Dict[int, Process], found: Set[int], leaders: Container[int]) -> List[Process]:
    """Return *found* in the order in which to kill: the first processes of the runs last.

    A process that has left the session and emptied its environment is known by its parent alone. If this process is
    killed half way, its successor must still find it: so children go before their parents.
    """

    def depth(pid: int) -> int:
        steps = 0
        while table[pid].parent in found and steps < len(found):
            pid = table[pid].parent
            steps += 1
        return steps

    return sorted((table[pid] for pid in found), key=lambda process: (process.pid in leaders, -depth(process.pid)))


def _started_by(process: Process, born_by: Optional[int]) -> bool:
    return born_by is None or (process.started.isdigit() and int(process.started) <= born_by)


def _add_children(table: Dict[int, Process], found: Set[int]) -> None:
    """Add all descendants of *found*."""
    children: Dict[int, List[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    queue = list(found)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child not in found:
                found.add(child)
                queue.append(child)


class _Table:
    """The process table, as far as it was read."""

    def __init__(self, store_id: str, run_ids: Container[int], born_after: Optional[int], origin: str) -> None:
        self.processes: Dict[int, Process] = {}  # the living ones that count, in the order in which they were seen
        self.marked: Dict[int, int] = {}  # those with the mark of one of the runs, and which
        self.missed = False  # whether the last look came too late for a process, or too early
        self._store_id = store_id
        self._run_ids = run_ids
        self._born_after = born_after or 0
        self._unborn = f"{WORKER}={origin}".encode() if origin else b""
        self._seen: Set[str] = set()
        self._bare: Set[str] = set()  # those without any environment when they were first read

    def look(self) -> Set[int]:
        """Read what was not read before; return which processes that were."""
        before = len(self.processes)
        self.missed = False
        if _HAS_PROC:
            for name in os.listdir("/proc"):
                if name not in self._seen and name.isdigit():
                    self._read(name)
        elif not self.processes:
            self.processes = _snapshot_by_ps()
            for pid in self.processes:
                self._mark(pid, _environment(pid))
        return set(list(self.processes)[before:])

    def _read(self, name: str) -> None:
        self._seen.add(name)
        pid = int(name)
        try:
            fields = identity.stat_of(pid)
        except PermissionError:  # another user's process, on a machine that hides them
            return
        if not fields or fields[0] in (b"Z", b"X"):
            self.missed = True  # what it left behind may be younger than the list
            return
        if int(fields[19]) < self._born_after:
            return
        process = Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[19].decode())
        environment = _environment(pid)
        if not environment and process.session:  # without a session: the kernel's
            self.missed = True
            if name not in self._bare:
                # It has just ended; or it is in the middle of an exec, which will show its environment.
                self._bare.add(name)
                self._seen.discard(name)
                return
        self.processes[pid] = process
        self._mark(pid, environment)

    def _mark(self, pid: int, environment: List[bytes]) -> None:
        run_id = _run_of(environment, self._store_id)
        if run_id in self._run_ids:
            self.marked[pid] = run_id
        elif self._unborn and self._unborn in environment:
            self.marked[pid] = 0  # of which run cannot be told


def _snapshot_by_ps() -> Dict[int, Process]:
    """Read the table through ``ps`` where there is no /proc (macOS, BSD)."""
    answer = identity.said_by("ps", "-axo", "pid=,ppid=,pgid=,sess=,state=,lstart=").decode("ascii", "replace")
    table = {}
    for line in answer.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and not fields[4].startswith("Z"):
            # macOS shows sessions as 0; the group does the same service for what did not call setsid.
            numbers = [int(field, 16) if field.startswith("0x") else int(field) for field in fields[:4]]
            table[numbers[0]] = Process(numbers[0], numbers[1], numbers[2], numbers[3], fields[5].strip())
    return table


def _run_of(environment: List[bytes], store_id: str) -> int:
    """Return the run by whose mark this is the environment of one of its processes; -1, that of no run, if by none."""
    if b"QUEUECTL_STORE_ID=" + store_id.encode() in environment:
        for entry in environment:
            if entry.startswith(b"QUEUECTL_RUN_ID="):
                return int(entry[16:]) if entry[16:].isdigit() else -1
    return -1


def _environment(pid: int) -> List[bytes]:
    """Return a process's environment; nothing if there is none at this moment."""
    if _HAS_PROC:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                text = file.read()
        except PermissionError:  # another user's process
            return [b""]
        except OSError as error:
            if error.errno in identity.OUT_OF:
                raise
            return []
        return text.split(b"\0") if text else []
    return identity.said_by("ps", "-Eww", "-o", "command=", "-p", str(pid)).split()


def send(processes: Iterable[Process], number: int) -> None:
    """Signal each process that is still the same as in the table, as far as that can be told now."""
    for process in processes:
        try:
            identity.send_signal(process.pid, process.started, number)
        except OSError:  # whoever wants to be sure looks again
            pass


def _stop_group(group: int, processes: Iterable[Process]) -> None:
    """Stop a whole group in one call, so that none of it can fork on while it is killed; *processes* are a run's.

    One of them that is in it, and still is the same, proves that the number is the run's group.
    """
    for process in processes:
        if process.group == group and identity.process_started(process.pid) == process.started:
            send_group(group, signal.SIGSTOP)
            return


def send_group(group: int, number: int) -> None:
    """Signal a process group, if there is one and this user may."""
    try:
        os.killpg(group, number)
    except OSError:
        pass


def stopped(
    store_id: str,
    run_ids: Container[int],
    leaders: Dict[int, Optional[str]],
    born_by: Optional[int] = None,
    born_after: Optional[int] = None,
    origin: str = "",
) -> List[Process]:
    """Stop the living processes of these runs and return them; arguments, order and errors are those of ``members``.

    Children that one of them made before it was stopped are found through it, as long as it has not been killed.
    """
    held: Set[int] = set()
    left: List[Process] = []
    for leader, started in leaders.items():
        # Before the first look, which takes the longer the more a command forks meanwhile.
        if started is None or identity.process_started(leader) == started:
            send_group(leader, signal.SIGSTOP)
    for _ in range(MOST_LOOKS):
        left = members(store_id, run_ids, leaders, born_by, born_after, origin)
        fresh = [process for process in left if process.pid not in held]
        if not fresh:
            break
        for group in {*leaders, *(process.pid for process in fresh if process.pid == process.group)}:
            _stop_group(group, fresh)
        send(fresh, signal.SIGSTOP)
        held.update(process.pid for process in fresh)
    return left


def end_at_once(
    store_id: str,
    run_ids: Container[int],
    leaders: Optional[Dict[int, Optional[str]]] = None,
    born_by: Optional[int] = None,
    born_after: Optional[int] = None,
    origin: str = "",
    patience_s: float = 5.0,
) -> bool:
    """Kill everything of these runs and wait until it is gone; False if something would not go.

    Two looks in a row must find nothing: a process may fork while it is being looked for.

    Raises:
        OSError: The process table cannot be read now; something may be left.
    """
    deadline = time.monotonic() + patience_s
    clean = 0
    while True:
        left = stopped(store_id, run_ids, leaders or {}, born_by, born_after, origin)
        clean = 0 if left else clean + 1
        if clean == 2:
            return True
        for process in left:
            identity.send_signal(process.pid, process.started, signal.SIGKILL)
            faults.point("clearing")
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
