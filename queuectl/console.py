"""Where a worker's lines go: the terminal or pipe it was started on, or a rotated log file.

Writing never blocks for long: a terminal that is held (Ctrl-S) or a pipe that nobody reads must
not keep a worker from its timeouts and its lease. What cannot be written, on a full disk for instance,
is kept up to a limit; once there is room again, a line says how many lines were left out.
"""

from __future__ import annotations

import errno
import os
import sys

from queuectl import events
from queuectl.db import folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from queue import SimpleQueue
    from typing import Any, Optional

# A pipe that polls as writable takes this much without blocking (PIPE_BUF: 512 by POSIX, 4096 on Linux).
PIECE = 4096
MOST_HELD = 1 << 20
# Errors by which nobody will ever read again. Others, such as a full disk, may pass.
GONE = frozenset((errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF))
LOG_BYTES = 5 * 1024 * 1024
LOG_FILES = 3


class Console:
    """Collects lines and raw output until ``release``, then writes them by ``flush``, as far as is possible at once.

    The release is for the ends of runs, which must not be announced before they are on the disk.
    """

    def __init__(self, fd: int = 1) -> None:
        self._fd: Optional[int] = fd
        self._held = bytearray()  # released, not written yet
        self._waiting = bytearray()  # not released yet
        self._released = 0  # bytes released so far
        self._left_out = 0  # lines dropped for lack of room, and not reported yet
        self._poll: Any = None
        self._writer: Optional[_Writer] = None
        self._encoding = "utf-8"
        self._start_of_line = True
        try:
            if sys.platform == "win32":
                self._encoding = _encoding_of(fd)
                self._writer = None if _is_file(fd) else _Writer(fd)
            elif not _is_file(fd):
                import select

                self._fd = _of_its_own(fd)
                self._poll = select.poll()
                self._poll.register(self._fd, select.POLLOUT)
        except OSError:
            self._fd = None

    @property
    def shows_output(self) -> bool:
        """Whether the output of commands is shown here as well."""
        return True

    @property
    def is_filling(self) -> bool:
        """Whether there is so much to write that more of the commands' output may soon have to be left out."""
        return len(self._held) + len(self._waiting) > MOST_HELD // 2

    def line(self, text: str) -> None:
        """Take one line; if a command's output stopped in the middle of a line, end that line first."""
        # Only released bytes count as held up: the others are released soon, and long commands make long lines.
        if (self._left_out or len(self._held) > MOST_HELD) and not self._resumes():
            self._left_out += 1
            return
        if not self._start_of_line:
            self._waiting += b"\n"
        self._waiting += text.encode(self._encoding, "backslashreplace") + b"\n"
        self._start_of_line = True

    def at_once(self, text: str) -> None:
        """Take one line, released at once, ahead of those that wait."""
        waiting, self._waiting = self._waiting, bytearray()
        before, self._start_of_line = self._start_of_line, True
        self.line(text)
        self._held += self._waiting
        self._waiting, self._start_of_line = waiting, before

    def raw(self, data: bytes) -> None:
        """Take a command's output as it is."""
        held = len(self._held) + len(self._waiting)
        if held > MOST_HELD or (self._left_out and not self._resumes()):
            self._left_out += data.count(b"\n") or 1  # the store keeps the output anyway
            return
        self._waiting += data
        self._start_of_line = data.endswith(b"\n")

    def _resumes(self) -> bool:
        """Return whether there is room for lines again after some were left out; if so, report how many.

        There must be half of the room: otherwise a reader who is a little too slow would read about little but gaps.
        """
        if len(self._held) > MOST_HELD // 2:
            return False
        count, self._left_out = self._left_out, 0
        self.line(events.left_out(count))
        return True

    def position(self) -> int:
        """Return the position behind everything taken so far, for ``release``."""
        return self._released + len(self._waiting)

    def release(self, position: Optional[int] = None) -> None:
        """Let everything up to *position* be written; None: everything."""
        if self._left_out:  # report it now: perhaps no further line follows
            self._resumes()
        size = len(self._waiting) if position is None else position - self._released
        if size > 0:
            self._held += self._waiting[:size]
            del self._waiting[:size]
            self._released += size

    def drop(self) -> None:
        """Forget what was not released: the ends that it announces will not be recorded."""
        self._waiting.clear()
        self._start_of_line = True

    def flush(self) -> bool:
        """Write what can be written without waiting; return whether nothing released is left."""
        if self._writer is not None:
            if self._held and self._writer.has_room():
                self._writer.give(bytes(self._held))
                self._held.clear()
            return not self._held
        while self._held and self._fd is not None:
            if self._poll is not None and not self._poll.poll(0):
                return False
            try:
                written = os.write(self._fd, self._held if self._poll is None else self._held[:PIECE])
            except OSError as error:
                if error.errno not in GONE:
                    return False
                self._fd = None  # the reader is gone; the work goes on
                break
            del self._held[:written]
        if self._fd is None:
            self._held.clear()
        return True

    def finish(self, patience_s: float = 1.0) -> None:
        """Write the rest, waiting *patience_s* seconds at most for a slow reader."""
        self.release()
        if not self._is_written() and self._poll is not None:
            import time

            deadline = time.monotonic() + patience_s
            while not self._is_written() and time.monotonic() < deadline:
                self._poll.poll(50)
        if self._writer is not None:
            self._writer.finish(patience_s)

    def _is_written(self) -> bool:
        """Write what can be, and then a line about what was left out; return whether nothing released is left."""
        done = self.flush()
        while done and self._left_out:
            self.release()
            done = self.flush()
        return done


class LogFile(Console):
    """A daemon worker's log: lines with the time, without the commands' output, rotated by size."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open_log(path)
        super().__init__(self._file)

    @property
    def shows_output(self) -> bool:
        """False: the output of commands is in the store, and a copy here would fill the disk."""
        return False

    def line(self, text: str) -> None:
        """Take one line, with the time before it."""
        import time

        super().line(time.strftime("%Y-%m-%d %H:%M:%S ") + text)

    def flush(self) -> bool:
        """Write what was released; start a new file, at the end of a line, when this one is full."""
        while True:
            try:
                room = LOG_BYTES - os.fstat(self._file).st_size
            except OSError:
                return super().flush()
            end = self._held.find(b"\n", max(room, 0)) + 1  # the end of the first line that exceeds this file's room
            rest = self._held[end:] if end else bytearray()
            del self._held[len(self._held) - len(rest) :]
            done = super().flush()
            if not end or not done:
                self._held += rest
                return done
            try:
                self._rotate()
            except OSError:
                pass
            self._held += rest

    def _is_current(self) -> bool:
        """Return whether the file still has its name; another process with the same log may have rotated it."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return False

    def _rotate(self) -> None:
        if self._is_current():
            for number in range(LOG_FILES - 1, 0, -1):
                older = self._path if number == 1 else f"{self._path}.{number - 1}"
                if os.path.exists(older):
                    os.replace(older, f"{self._path}.{number}")
        fd = open_log(self._path)
        try:
            os.dup2(fd, self._file, inheritable=False)  # a command must not inherit it
        finally:
            os.close(fd)


class _Writer:
    """Writes in a thread of its own, for Windows, where nothing tells whether a write would block.

    A console blocks as long as a user selects text in it with the mouse, for instance.
    """

    def __init__(self, fd: int) -> None:
        import threading
        from queue import SimpleQueue

        self._fd = fd
        self._queue: SimpleQueue[Any] = SimpleQueue()  # of bytes; None ends the thread
        self._given = self._written = 0
        self._done = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def has_room(self) -> bool:
        return self._given - self._written < MOST_HELD

    def give(self, data: bytes) -> None:
        self._given += len(data)
        self._queue.put(data)

    def finish(self, patience_s: float) -> None:
        """Wait until everything is written, *patience_s* seconds at most."""
        self._queue.put(None)
        self._done.wait(patience_s)

    def _work(self) -> None:
        data = self._queue.get()
        while data is not None:
            rest = data
            try:
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
            except OSError:  # the reader is gone; the work goes on
                pass
            self._written += len(data)
            data = self._queue.get()
        self._done.set()


def _encoding_of(fd: int) -> str:
    """Return the encoding in which a Windows console reads bytes; UTF-8 for everything else."""
    if sys.platform == "win32" and os.isatty(fd):
        import codecs
        import ctypes

        try:
            return codecs.lookup(f"cp{ctypes.windll.kernel32.GetConsoleOutputCP()}").name
        except LookupError:
            pass
    return "utf-8"


def open_log(path: str) -> int:
    """Open a file to which several processes append at the same time, and which each of them may rename.

    On Windows, O_APPEND only affects the C library of this process, not a process that inherits the file, and a file
    opened by ``os.open`` cannot be renamed. So the handle made here has the right to append and no other, and shares
    the file for renaming.
    """
    if sys.platform != "win32":
        return folders.open_file(path, os.O_WRONLY | os.O_APPEND)
    import ctypes
    import msvcrt
    from ctypes import wintypes

    # Not _winapi.CreateFile: before Python 3.11 it cannot open names outside the code page.
    create = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    create.restype = wintypes.HANDLE
    create.argtypes = (
        wintypes.LPCWSTR, *[wintypes.DWORD] * 2, wintypes.LPVOID, *[wintypes.DWORD] * 2, wintypes.HANDLE
    )  # fmt: skip
    append = 0x0004 | 0x0080 | 0x00100000  # FILE_APPEND_DATA, FILE_READ_ATTRIBUTES, SYNCHRONIZE
    share = 0x1 | 0x2 | 0x4  # reading, writing, deleting (and with that, renaming)
    handle = create(path, append, share, None, 4, 0x80, None)  # OPEN_ALWAYS, FILE_ATTRIBUTE_NORMAL
    if handle == wintypes.HANDLE(-1).value:
        error = ctypes.get_last_error()
        raise OSError(None, ctypes.FormatError(error), path, error)
    return msvcrt.open_osfhandle(handle, os.O_APPEND | os.O_TEXT)


def _of_its_own(fd: int) -> int:
    """Open the file behind *fd* anew, non-blocking, and return the descriptor; *fd* itself where that is not possible.

    A terminal or pipe that polls as writable may have less room than is written, or another process may
    fill it first. *fd* itself must not be made non-blocking: the other processes that share it would be affected.
    """
    if sys.platform == "win32":
        return fd
    how = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(f"/proc/self/fd/{fd}", how)
    except OSError:
        pass  # no /proc, or a socket
    try:
        return os.open(os.ttyname(fd), how)
    except OSError:  # no terminal, or one without a name here, such as a container host's
        return fd


def _is_file(fd: int) -> bool:
    import stat

    return stat.S_ISREG(os.fstat(fd).st_mode)
