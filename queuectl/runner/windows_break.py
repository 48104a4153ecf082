"""Ctrl-Break for the commands of a worker on Windows: the only request to end that a console program can get.

Only a process on the same console can send a Ctrl-Break, and every command has a console of its own. So a helper
process, started when it is first needed, attaches to one console after the other; the worker keeps its own.
"""

from __future__ import annotations

import subprocess
import sys
import threading

assert sys.platform == "win32"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Optional

# For each pid on standard input: attach to its console, send Ctrl-Break to its group, print whether that worked.
HELPER = """
import ctypes, sys
kernel32 = ctypes.WinDLL("kernel32")
for line in sys.stdin:
    pid = int(line)
    kernel32.FreeConsole()
    sent = kernel32.AttachConsole(pid) and kernel32.GenerateConsoleCtrlEvent(1, pid)
    kernel32.FreeConsole()
    print(pid, 1 if sent else 0, flush=True)
"""


class _Helper:
    """The helper process, and the requests that it has not answered yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: Dict[int, Callable[[], None]] = {}  # by pid: what to call if no Ctrl-Break could be sent
        self._process: Optional[subprocess.Popen[bytes]] = None

    def send(self, pid: int, refused: Callable[[], None]) -> None:
        with self._lock:
            self._refused[pid] = refused
            try:
                process = self._process or self._start()
                assert process.stdin is not None
                process.stdin.write(b"%d\n" % pid)
                return
            except OSError:
                self._process = None
                del self._refused[pid]
        refused()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", HELPER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            creationflags=subprocess.CREATE_NO_WINDOW,
        )  # fmt: skip
        self._process = process
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Act on the helper's answers; when the helper ends, treat all open requests as refused."""
        assert process.stdout is not None
        for line in process.stdout:
            pid, sent = map(int, line.split())
            with self._lock:
                refused = self._refused.pop(pid, None)
            if refused is not None and not sent:
                refused()
        with self._lock:
            if self._process is process:
                self._process = None
            left = list(self._refused.values())
            self._refused.clear()
        process.wait()
        for refused in left:
            refused()


_helper = _Helper()


def send_break(pid: int, refused: Callable[[], None]) -> None:
    """Send Ctrl-Break to the process group *pid*; if this is not possible, call *refused*, perhaps in another thread.

    Does not wait for the outcome.
    """
    _helper.send(pid, refused)
