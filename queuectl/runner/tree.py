"""The process tree of a run on POSIX: find its processes, by session, descent and mark, and end them.

A run's mark is the pair QUEUECTL_STORE_ID, QUEUECTL_RUN_ID in a process's environment. By the mark, descendants are
found that have left the session and whose parents are gone (Jenkins does the same); by the session, those that
have emptied their environment.
"""

from __future__ import annotations

import os
import signal
import sys
import time

assert sys.platform != "win32"

from queuectl import faults
from queuectl.records import NamedTuple
from queuectl.runner import RUN_ID, STORE_ID, WORKER, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Container, Dict, Iterable, List, Mapping, Optional, Set, Tuple, Union


# Where the address of the end of the environment is among what ``identity.stat_of`` returns; field 51 of proc(5).
_ENV_END = 48
# The same for the flags of the process, and the one among these that kernel threads have; field 9 of proc(5), and
# PF_KTHREAD of the kernel's sched.h.
_FLAGS = 6
_IS_KERNEL_THREAD = 0x00200000
_HAS_PROC = os.path.exists("/proc/self/stat")
# How the two entries of the mark begin.
_RUN_ENTRY, _STORE_ENTRY = f"{RUN_ID}=".encode(), f"{STORE_ID}=".encode()
# How often, at most, the table is read again for processes that were created while it was read.
MOST_LOOKS = 20
# The same for a process that has no environment, as one has in the middle of an exec: it may wait there for its disk,
# or for a busy processor. The pause before a look is this long for each look before it: 0.2 s in all.
MOST_BARE_LOOKS = MOST_LOOKS
BARE_PAUSE_S = 0.001
# How long to wait for processes that were killed.
PATIENCE_S = 5.0


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
    """Return the living processes of these runs, children before their parents; never this process itself.

    Args:
        store_id: The store's id; half of the mark.
        run_ids: The runs.
        leaders: Pids of the runs' first processes, each with its start time, or None if it has not been
            reaped yet (so that the pid cannot be another process's).
        born_by: A start time at which the runs' worker was last known to live; None: the worker lives. If a leader is
            gone, its pid may have been reused for the leader of a new session: of a session with that number,
            only processes that started no later than this, and their descendants, belong to the run.
        born_after: A start time before which none of the runs had begun; None: not known. An older process cannot
            belong to them, so its environment is not read; most processes of a machine are older.
        origin: The origin of the runs' dead worker; empty: the worker lives. A command that the worker was starting
            when it died has the worker's environment, without a mark, until its exec.

    Raises:
        OSError: The process table cannot be read now.
    """
    table, found = _found(store_id, run_ids, leaders or {}, born_by, born_after, origin)
    return _children_first(table.processes, found, leaders or {})


def alive(store_id: str, runs: Mapping[int, Dict[int, Optional[str]]], born_after: Optional[int] = None) -> Set[int]:
    """Return the ids of those of *runs* that have a living process, in one look for all of them.

    *runs* has the leaders of each run, by its id. Everything else is as in ``members``.
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
    """Return the process table, and the pids of the processes of these runs; see ``members``."""
    table = _Table(store_id, run_ids, born_after, origin)
    found: Set[int] = set()
    # A process may fork and end while the table is read, which takes milliseconds. So look again, which is quick as
    # only new processes are read, until a look neither shows a process of these runs nor may have missed one.
    table.look()
    for before in range(1, MOST_LOOKS + 1):
        if table.bare:
            time.sleep(BARE_PAUSE_S * before)
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
    """Return the pids in *table* that are *marked*, in a leader's session or group, or descend from one of these."""
    found = set(marked)
    sessions: Set[int] = set()
    orphaned: Set[int] = set()
    for leader, started in leaders.items():
        process = table.get(leader)
        if process is None:
            # Its pid is not reused while a session has this number, but may be after the session has ended.
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
    """Return *found* in the order in which to kill them: children before their parents, and leaders last.

    A process that has left the session and emptied its environment is only found through its parent. It must be
    found even if this process is killed half way and another one takes over; so it has to go before its parent.
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
    """Add all descendants of *found* to it."""
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
    """The process table, as far as it has been read."""

    def __init__(self, store_id: str, run_ids: Container[int], born_after: Optional[int], origin: str) -> None:
        self.processes: Dict[int, Process] = {}  # living processes not older than *born_after*, in the order seen
        self.marked: Dict[int, int] = {}  # pid to run id, for those with the mark of one of the runs
        self.missed = False  # whether the last look may have missed a process
        self.bare = False  # whether one was passed over in the last look that may get its environment in a moment
        self._store_id = store_id
        self._run_ids = run_ids
        self._born_after = born_after or 0
        self._origin = origin
        self._unborn = f"{WORKER}={origin}".encode()
        self._seen: Set[str] = set()
        self._bare_looks: Dict[str, int] = {}  # pid to the number of looks at which it had no environment

    def look(self) -> Set[int]:
        """Read the processes that were not read before; return the pids that this added."""
        before = len(self.processes)
        self.missed = self.bare = False
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
        except PermissionError:  # another user's process, where the system hides those
            return
        if identity.has_ended(fields):
            self.missed = True  # it has just ended, and may have made children after the listing
            return
        if int(fields[19]) < self._born_after:
            return
        process = Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[19].decode())
        unborn = bool(self._origin) and identity.has_mark(pid, self._origin)  # before the environment: see there
        environment = _environment(pid) if fields[0] != b"Z" else _environment_of_others(pid)
        # Not told by a session of 0, which processes have as well whose session began outside of the container.
        is_bare = not environment and not int(fields[_FLAGS]) & _IS_KERNEL_THREAD
        if is_bare and not self._is_settled(name, fields):
            self.missed = self.bare = True
            self._seen.discard(name)
            return
        self.processes[pid] = process
        self._mark(pid, environment, unborn)

    def _is_settled(self, name: str, fields: List[bytes]) -> bool:
        """Return whether a process without an environment is to be taken for one that was started without any.

        It may have just ended, or be in the middle of an exec, after which its environment can be read. A busy machine
        may take a while for that. The address of the environment's end tells, where it is shown: it is 0 until then.
        """
        looks = self._bare_looks[name] = self._bare_looks.get(name, 0) + 1
        has_end = len(fields) > _ENV_END and fields[_ENV_END] != b"0"  # read before the environment
        return looks >= (2 if has_end else MOST_BARE_LOOKS)

    def _mark(self, pid: int, environment: List[bytes], unborn: bool = False) -> None:
        run_id = _run_of(environment, self._store_id)
        if run_id in self._run_ids:
            self.marked[pid] = run_id
        elif self._origin and (unborn or self._unborn in environment):
            self.marked[pid] = 0  # which run it belongs to is not known


def _snapshot_by_ps() -> Dict[int, Process]:
    """Read the process table through ``ps``, where there is no /proc (macOS, BSD)."""
    answer = identity.said_by("ps", "-axo", "pid=,ppid=,pgid=,sess=,state=,lstart=").decode("ascii", "replace")
    table = {}
    for line in answer.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and not fields[4].startswith("Z"):
            # macOS shows all sessions as 0. The group serves instead, for processes that have not left it.
            numbers = [int(field, 16) if field.startswith("0x") else int(field) for field in fields[:4]]
            table[numbers[0]] = Process(numbers[0], numbers[1], numbers[2], numbers[3], fields[5].strip())
    return table


def _run_of(environment: List[bytes], store_id: str) -> int:
    """Return the id of the run whose mark is in *environment*; -1, which is no run's id, if there is none."""
    if _STORE_ENTRY + store_id.encode() in environment:
        for entry in environment:
            if entry.startswith(_RUN_ENTRY):
                number = entry[len(_RUN_ENTRY) :]
                return int(number) if number.isdigit() else -1
    return -1


def _environment(pid: Union[int, str]) -> List[bytes]:
    """Return the entries of a process's environment; none if the process has none at this moment, or has ended.

    The environment of another user's process, which cannot be read, is returned as one empty entry.
    """
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


def _environment_of_others(pid: int) -> List[bytes]:
    """Return what ``_environment`` does for a process whose first thread has ended, by which it can no longer be read.

    All threads have the same environment.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        if error.errno in identity.OUT_OF:
            raise
        return []
    found = (_environment(f"{pid}/task/{thread}") for thread in threads if int(thread) != pid)
    return next((environment for environment in found if environment), [])


def send(processes: Iterable[Process], number: int) -> None:
    """Send a signal to each process that is still the one in the table; skip those for which this cannot be told."""
    for process in processes:
        try:
            identity.send_signal(process.pid, process.started, number)
        except OSError:  # callers look again whether the processes are gone
            pass


def _stop_group(group: int, processes: Iterable[Process]) -> None:
    """Stop a whole process group in one call, so that no process of it can fork while the others are killed.

    *processes* belong to a run. If one of them is in the group, and its pid was not reused, the group is the run's.
    """
    for process in processes:
        if process.group == group and identity.process_started(process.pid) == process.started:
            send_group(group, signal.SIGSTOP)
            return


def send_group(group: int, number: int) -> None:
    """Send a signal to a process group; do nothing if there is no such group, or the user may not signal it."""
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
    """Suspend the living processes of these runs and return them; arguments, order and errors are as in ``members``.

    A suspended process keeps its children from being lost: those that it made before are found by descent from it.
    """
    held: Set[int] = set()
    left: List[Process] = []
    for leader, started in leaders.items():
        # Done before the first look, which takes longer the more a command forks meanwhile.
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
) -> bool:
    """Kill all processes of these runs and wait until they are gone; return False if some are left after PATIENCE_S.

    The arguments are those of ``members``. The processes count as gone if two looks in a row find none: one that forks
    may escape a single look.

    Raises:
        OSError: The process table cannot be read now; processes may be left.
    """
    deadline = time.monotonic() + PATIENCE_S
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
