"""Starting a process on Windows inside a job object, with only the handles that it should inherit.

``subprocess`` cannot put a process into a job object at its creation. If that is done afterwards, and the worker dies
in between, the process is left behind.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import wintypes

assert sys.platform == "win32"

from queuectl.runner.windows_api import ENDED, JobObject, kernel32, last_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Sequence, Tuple

STARTF_USESTDHANDLES = 0x00000100
CREATE_SUSPENDED = 0x00000004
CREATE_NEW_PROCESS_GROUP = 0x00000200
CREATE_UNICODE_ENVIRONMENT = 0x00000400
EXTENDED_STARTUPINFO_PRESENT = 0x00080000
# The process gets a hidden console of its own: neither a Ctrl-C nor the end of the worker's window affects it.
CREATE_NO_WINDOW = 0x08000000
FLAGS = CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW | CREATE_UNICODE_ENVIRONMENT | EXTENDED_STARTUPINFO_PRESENT
HANDLE_LIST = 0x00020002
JOB_LIST = 0x0002000D
# The errors for an attribute that this Windows does not know: JOB_LIST came with Windows 10.
UNKNOWN_ATTRIBUTE = (50, 87)


class _StartupInfo(ctypes.Structure):
    """STARTUPINFOEXW."""

    _fields_ = [
        ("cb", wintypes.DWORD),
        ("Reserved", wintypes.LPWSTR),
        ("Desktop", wintypes.LPWSTR),
        ("Title", wintypes.LPWSTR),
        ("Geometry", wintypes.DWORD * 7),
        ("Flags", wintypes.DWORD),
        ("ShowWindow", wintypes.WORD),
        ("Reserved2Size", wintypes.WORD),
        ("Reserved2", wintypes.LPVOID),
        ("StdInput", wintypes.HANDLE),
        ("StdOutput", wintypes.HANDLE),
        ("StdError", wintypes.HANDLE),
        ("AttributeList", wintypes.LPVOID),
    ]


class _ProcessInformation(ctypes.Structure):
    """PROCESS_INFORMATION."""

    _fields_ = [
        ("Process", wintypes.HANDLE),
        ("Thread", wintypes.HANDLE),
        ("ProcessId", wintypes.DWORD),
        ("ThreadId", wintypes.DWORD),
    ]


for _name, _result, _arguments in (
    (
        "InitializeProcThreadAttributeList",
        wintypes.BOOL,
        (wintypes.LPVOID, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID),
    ),
    (
        "UpdateProcThreadAttribute",
        wintypes.BOOL,
        (wintypes.LPVOID, wintypes.DWORD, ctypes.c_size_t, wintypes.LPVOID, ctypes.c_size_t, *[wintypes.LPVOID] * 2),
    ),
    ("DeleteProcThreadAttributeList", None, (wintypes.LPVOID,)),
    (
        "CreateProcessW",
        wintypes.BOOL,
        (
            wintypes.LPCWSTR, wintypes.LPWSTR, wintypes.LPVOID, wintypes.LPVOID, wintypes.BOOL, wintypes.DWORD,
            wintypes.LPVOID, wintypes.LPCWSTR, wintypes.LPVOID, wintypes.LPVOID,
        ),
    ),
):  # fmt: skip
    _function = getattr(kernel32, _name)
    _function.restype = _result
    _function.argtypes = _arguments

_knows_job_list = True


class _Attributes:
    """An attribute list for CreateProcessW, and the arrays that it points to."""

    def __init__(self, values: Dict[int, Sequence[int]]) -> None:
        size = ctypes.c_size_t()
        kernel32.InitializeProcThreadAttributeList(None, len(values), 0, ctypes.byref(size))
        self.list = ctypes.create_string_buffer(size.value)
        if not kernel32.InitializeProcThreadAttributeList(self.list, len(values), 0, ctypes.byref(size)):
            raise last_error()
        self._arrays: List[object] = []
        for attribute, handles in values.items():
            array = (wintypes.HANDLE * len(handles))(*handles)
            self._arrays.append(array)
            if not kernel32.UpdateProcThreadAttribute(self.list, 0, attribute, array, ctypes.sizeof(array), None, None):
                error = last_error()
                self.delete()
                raise error

    def delete(self) -> None:
        kernel32.DeleteProcThreadAttributeList(self.list)


def spawn(
    program: str, line: str, cwd: str, env: Mapping[str, str], stdin: int, output: int, job: JobObject
) -> Tuple[int, int]:
    """Start *program* with the command line *line* inside *job*; return the pid and a handle of the new process.

    Raises:
        OSError: Windows could not start it.
        ValueError: A text cannot be part of a command line or an environment.
    """
    global _knows_job_list
    if "\0" in line or "\0" in cwd:
        raise ValueError("there is a NUL in it")
    block = _environment_block(env)
    inherited = (stdin, output)
    if _knows_job_list:
        try:
            made = _create(program, line, cwd, block, inherited, {HANDLE_LIST: inherited, JOB_LIST: (job.handle,)}, 0)
        except OSError as error:
            if error.winerror not in UNKNOWN_ATTRIBUTE:
                raise
            _knows_job_list = False
        else:
            kernel32.CloseHandle(made.Thread)
            return int(made.ProcessId), int(made.Process)
    made = _create(program, line, cwd, block, inherited, {HANDLE_LIST: inherited}, CREATE_SUSPENDED)
    try:
        job.take(made.Process)
        if kernel32.ResumeThread(made.Thread) == 0xFFFFFFFF:
            raise last_error()
    except OSError:
        kernel32.TerminateProcess(made.Process, ENDED)
        kernel32.CloseHandle(made.Process)
        raise
    finally:
        kernel32.CloseHandle(made.Thread)
    return int(made.ProcessId), int(made.Process)


def _create(
    program: str,
    line: str,
    cwd: str,
    block: ctypes.Array[ctypes.c_wchar],
    inherited: Tuple[int, int],
    attributes: Dict[int, Sequence[int]],
    flags: int,
) -> _ProcessInformation:
    listed = _Attributes(attributes)
    try:
        how = _StartupInfo()
        how.cb = ctypes.sizeof(how)
        how.Flags = STARTF_USESTDHANDLES
        how.StdInput, how.StdOutput = inherited
        how.StdError = how.StdOutput
        how.AttributeList = ctypes.addressof(listed.list)
        made = _ProcessInformation()
        if not kernel32.CreateProcessW(
            program, ctypes.create_unicode_buffer(line), None, None, True, FLAGS | flags,
            block, cwd, ctypes.byref(how), ctypes.byref(made),
        ):  # fmt: skip
            raise last_error()
        return made
    finally:
        listed.delete()


def _environment_block(env: Mapping[str, str]) -> ctypes.Array[ctypes.c_wchar]:
    """Return *env* as Windows takes it, each name once: Path and PATH are the same, and the later one counts.

    Raises:
        ValueError: A name or value cannot be part of an environment.
    """
    found: Dict[str, str] = {}
    for name, value in env.items():
        if not name or "=" in name[1:] or "\0" in name or "\0" in value:
            raise ValueError(f"it cannot have an environment variable {name[:40]!r}")
        found[name.upper()] = f"{name}={value}"
    entries = [found[name] for name in sorted(found)]
    return ctypes.create_unicode_buffer("\0".join(entries) + "\0")
