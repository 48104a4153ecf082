"""Calls of the Windows API that Python's library does not offer: job objects, process times, the process table."""

from __future__ import annotations

import ctypes
import sys
import threading
from ctypes import wintypes

assert sys.platform == "win32"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Optional, Tuple

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)

SYNCHRONIZE = 0x00100000
PROCESS_TERMINATE = 0x0001
PROCESS_QUERY_LIMITED = 0x1000
ACCESS_DENIED = 5
WAIT_OBJECT_0 = 0
# The exit code of a process that queuectl has ended.
ENDED = 1

for _name, _result, _arguments in (
    ("CreateJobObjectW", wintypes.HANDLE, (wintypes.LPVOID, wintypes.LPCWSTR)),
    ("AssignProcessToJobObject", wintypes.BOOL, (wintypes.HANDLE, wintypes.HANDLE)),
    ("TerminateJobObject", wintypes.BOOL, (wintypes.HANDLE, wintypes.UINT)),
    ("SetInformationJobObject", wintypes.BOOL, (wintypes.HANDLE, ctypes.c_int, wintypes.LPVOID, wintypes.DWORD)),
    (
        "QueryInformationJobObject",
        wintypes.BOOL,
        (wintypes.HANDLE, ctypes.c_int, wintypes.LPVOID, wintypes.DWORD, wintypes.LPVOID),
    ),
    ("ResumeThread", wintypes.DWORD, (wintypes.HANDLE,)),
    ("OpenProcess", wintypes.HANDLE, (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD)),
    ("TerminateProcess", wintypes.BOOL, (wintypes.HANDLE, wintypes.UINT)),
    ("WaitForSingleObject", wintypes.DWORD, (wintypes.HANDLE, wintypes.DWORD)),
    ("GetProcessTimes", wintypes.BOOL, (wintypes.HANDLE, *[wintypes.LPVOID] * 4)),
    ("K32GetProcessMemoryInfo", wintypes.BOOL, (wintypes.HANDLE, wintypes.LPVOID, wintypes.DWORD)),
    ("CloseHandle", wintypes.BOOL, (wintypes.HANDLE,)),
    ("GetComputerNameExW", wintypes.BOOL, (ctypes.c_int, wintypes.LPWSTR, wintypes.LPVOID)),
    ("CreateEventW", wintypes.HANDLE, (wintypes.LPVOID, wintypes.BOOL, wintypes.BOOL, wintypes.LPCWSTR)),
    ("SetEvent", wintypes.BOOL, (wintypes.HANDLE,)),
    ("ResetEvent", wintypes.BOOL, (wintypes.HANDLE,)),
):
    _function = getattr(kernel32, _name)
    _function.restype = _result
    _function.argtypes = _arguments


class Usage:
    """What the processes of a run have used."""

    __slots__ = ("cpu_s", "peak_memory_bytes")

    def __init__(self, peak_memory_bytes: int, cpu_s: float) -> None:
        self.peak_memory_bytes = peak_memory_bytes
        self.cpu_s = cpu_s


# -- job objects ------------------------------------------------------------------------------


class _BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION."""

    _fields_ = [
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", wintypes.DWORD),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", wintypes.DWORD),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", wintypes.DWORD),
        ("SchedulingClass", wintypes.DWORD),
    ]


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = [
        ("Basic", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    ]


class _Accounting(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION; times in units of 100 ns."""

    _fields_ = [
        ("TotalUserTime", ctypes.c_int64),
        ("TotalKernelTime", ctypes.c_int64),
        ("ThisPeriodTotalUserTime", ctypes.c_int64),
        ("ThisPeriodTotalKernelTime", ctypes.c_int64),
        ("TotalPageFaultCount", wintypes.DWORD),
        ("TotalProcesses", wintypes.DWORD),
        ("ActiveProcesses", wintypes.DWORD),
        ("TotalTerminatedProcesses", wintypes.DWORD),
    ]


_ACCOUNTING = 1
_EXTENDED_LIMITS = 9
_DIE_ON_UNHANDLED_EXCEPTION = 0x0400  # a crash ends the process, without a window that waits for a button to be pressed
_KILL_ON_JOB_CLOSE = 0x2000


class JobObject:
    """All processes of one run: a process that one of them starts belongs to the job object too, and cannot leave it.

    Windows ends them all when the last handle of the job object is closed. This object has the only one, and Windows
    closes it when this process ends, in whatever way. ``release`` undoes that. May be used from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: Optional[int] = kernel32.CreateJobObjectW(None, None)
        if not self._handle:
            raise last_error()
        try:
            self._limit(_KILL_ON_JOB_CLOSE | _DIE_ON_UNHANDLED_EXCEPTION)
        except OSError:
            self.close()
            raise

    def _limit(self, flags: int) -> None:
        limits = _ExtendedLimits()
        limits.Basic.LimitFlags = flags
        if not kernel32.SetInformationJobObject(
            self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
        ):
            raise last_error()

    @property
    def handle(self) -> int:
        """The handle of the job object, to create a process in it; 0 once it is closed."""
        return self._handle or 0

    def take(self, process: int) -> None:
        """Put a process, given by its handle, into the job object; do this before the process runs."""
        if not kernel32.AssignProcessToJobObject(self._handle, process):
            raise last_error()

    def end(self) -> None:
        """End all processes in the job object."""
        with self._lock:
            if self._handle:
                kernel32.TerminateJobObject(self._handle, ENDED)

    def alive(self) -> int:
        """Return how many processes are alive in the job object."""
        accounting = _Accounting()
        self._query(_ACCOUNTING, accounting)
        return int(accounting.ActiveProcesses)

    def usage(self) -> Usage:
        """Return what the processes have used so far: the sum of their CPU times, their peak memory taken together."""
        accounting, limits = _Accounting(), _ExtendedLimits()
        self._query(_ACCOUNTING, accounting)
        self._query(_EXTENDED_LIMITS, limits)
        ticks = accounting.TotalUserTime + accounting.TotalKernelTime
        return Usage(int(limits.PeakJobMemoryUsed), ticks / 1e7)

    def _query(self, kind: int, into: ctypes.Structure) -> None:
        with self._lock:
            if self._handle:
                kernel32.QueryInformationJobObject(self._handle, kind, ctypes.byref(into), ctypes.sizeof(into), None)

    def release(self) -> None:
        """Close the handle and let the processes in the job object live on."""
        with self._lock:
            if self._handle:
                try:
                    self._limit(_DIE_ON_UNHANDLED_EXCEPTION)
                except OSError:
                    pass  # the processes will end when the handle is closed
        self.close()

    def close(self) -> None:
        """Close the handle; unless ``release`` was called, this ends the processes in the job object."""
        with self._lock:
            if self._handle:
                kernel32.CloseHandle(self._handle)
                self._handle = None


# -- processes --------------------------------------------------------------------------------


def last_error() -> OSError:
    """Return the error of the last API call, as an exception to raise."""
    return ctypes.WinError(ctypes.get_last_error())


def process_usage(process: int) -> Usage:
    """Return what one process, given by its handle, has used."""
    counters = _MemoryCounters()
    counters.cb = ctypes.sizeof(counters)
    kernel32.K32GetProcessMemoryInfo(process, ctypes.byref(counters), ctypes.sizeof(counters))
    _, kernel, user = _times(process)
    return Usage(int(counters.PeakWorkingSetSize), (kernel + user) / 1e7)


def computer_name() -> str:
    """Return the computer's name, which changes only with a restart.

    Not by the environment: a process may have been started without it, or with another one.

    Raises:
        OSError: Windows does not tell it.
    """
    name = ctypes.create_unicode_buffer(256)
    length = wintypes.DWORD(len(name))
    if not kernel32.GetComputerNameExW(4, name, ctypes.byref(length)):  # ComputerNamePhysicalNetBIOS
        raise last_error()
    return name.value


class _MemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS."""

    _fields_ = [
        ("cb", wintypes.DWORD),
        ("PageFaultCount", wintypes.DWORD),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("Quotas", ctypes.c_size_t * 4),
        ("PagefileUsage", ctypes.c_size_t),
        ("PeakPagefileUsage", ctypes.c_size_t),
    ]


def _times(process: int) -> Tuple[int, int, int]:
    """Return (creation, kernel, user) times of a process in units of 100 ns; creation counts from 1601."""
    created, ended, kernel, user = (ctypes.c_uint64() for _ in range(4))
    kernel32.GetProcessTimes(
        process, ctypes.byref(created), ctypes.byref(ended), ctypes.byref(kernel), ctypes.byref(user)
    )
    return created.value, kernel.value, user.value


def process_created(pid: int) -> Optional[str]:
    """Return the creation time of the process *pid*, as a text to compare; None if there is no such process."""
    process = kernel32.OpenProcess(PROCESS_QUERY_LIMITED | SYNCHRONIZE, False, pid)
    if not process:
        # A process of another user cannot be opened, but the process table can be read by every user.
        return _created_by_table(pid) if ctypes.get_last_error() == ACCESS_DENIED else None
    try:
        return _created(process)
    finally:
        kernel32.CloseHandle(process)


def _created(process: int) -> Optional[str]:
    if kernel32.WaitForSingleObject(process, 0) == WAIT_OBJECT_0:
        return None  # the process has ended, and only exists because another process has a handle of it
    return str(_times(process)[0])


def end_process(pid: int, created: str) -> bool:
    """End the process with this pid and creation time; return False if it has ended, or may not be ended.

    The handle pins the process: its pid cannot pass to another one between the check and the end.
    """
    process = kernel32.OpenProcess(PROCESS_TERMINATE | PROCESS_QUERY_LIMITED | SYNCHRONIZE, False, pid)
    if not process:
        return False
    try:
        return _created(process) == created and bool(kernel32.TerminateProcess(process, ENDED))
    finally:
        kernel32.CloseHandle(process)


class _TableRow(ctypes.Structure):
    """The beginning of SYSTEM_PROCESS_INFORMATION, as far as it is needed."""

    _fields_ = [
        ("NextEntryOffset", wintypes.ULONG),
        ("NumberOfThreads", wintypes.ULONG),
        ("Reserved", ctypes.c_int64 * 3),
        ("CreateTime", ctypes.c_int64),
        ("UserTime", ctypes.c_int64),
        ("KernelTime", ctypes.c_int64),
        ("NameLength", wintypes.USHORT),
        ("NameMaximumLength", wintypes.USHORT),
        ("NameBuffer", wintypes.LPVOID),
        ("BasePriority", wintypes.LONG),
        ("UniqueProcessId", ctypes.c_size_t),
        ("InheritedFromUniqueProcessId", ctypes.c_size_t),
    ]


def _created_by_table(pid: int) -> Optional[str]:
    row = process_table().get(pid)
    return None if row is None else str(row[0])


def process_table() -> Dict[int, Tuple[int, int]]:
    """Return (creation time, parent's pid) of each process, by pid; empty if Windows does not give the table."""
    query = ctypes.WinDLL("ntdll").NtQuerySystemInformation
    query.argtypes = (ctypes.c_int, wintypes.LPVOID, wintypes.ULONG, wintypes.LPVOID)
    needed = wintypes.ULONG(1 << 18)
    for _ in range(10):  # the table may grow between two calls
        table = ctypes.create_string_buffer(needed.value + (1 << 16))
        status = query(5, table, len(table), ctypes.byref(needed))  # SystemProcessInformation
        if status == 0:
            break
    else:
        return {}
    found: Dict[int, Tuple[int, int]] = {}
    at = 0
    while True:
        row = _TableRow.from_buffer(table, at)
        found[int(row.UniqueProcessId)] = int(row.CreateTime), int(row.InheritedFromUniqueProcessId)
        if not row.NextEntryOffset:
            return found
        at += int(row.NextEntryOffset)
