"""Where a worker's lines go: the terminal or pipe it was started on, or a rotated log file.

Writing never blocks for long: a terminal that is held (Ctrl-S) or a pipe that nobody reads must
not keep a worker from its timeouts and its lease. What does not fit is kept, up to a limit.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# A pipe that polls as writable takes this much at once (POSIX: PIPE_BUF is at least 512, Linux 4096).
PIECE = 4096
MOST_HELD = 1 << 20
LOG_BYTES = 5 * 1024 * 1024
LOG_FILES = 3


class Console:
    """Collects lines and raw output; ``flush`` writes what can be written now."""

    def __init__(self, fd: int = 1) -> None:
        self._fd: Optional[int] = fd
        self._held = bytearray()
        self._poll = None
        self._start_of_line = True
        try:
            import select

            if hasattr(select, "poll") and not _is_file(fd):
                self._poll = select.poll()
                self._poll.register(fd, select.POLLOUT)
        except OSError:
            self._fd = None

    @property
    def shows_output(self) -> bool:
        """Whether the output of commands belongs here too."""
        return True

    def line(self, text: str) -> None:
        """Take one line; after a command's output that ended within a line, begin a new one."""
        if not self._start_of_line:
            self._held += b"\n"
        self._held += text.encode("utf-8", "backslashreplace") + b"\n"
        self._start_of_line = True

    def raw(self, data: bytes) -> None:
        """Take a command's output as it is."""
        if len(self._held) > MOST_HELD:  # nobody reads: the store keeps the output anyway
            return
        self._held += data
        self._start_of_line = data.endswith(b"\n")

    def flush(self) -> bool:
        """Write what can be written without waiting; say whether all of it is."""
        while self._held and self._fd is not None:
            if self._poll is not None and not self._poll.poll(0):
                return False
            size = len(self._held) if self._poll is None else PIECE
            try:
                written = os.write(self._fd, self._held[:size])
            except BlockingIOError:
                return False
            except OSError:  # the reader is gone; the work goes on
                self._fd = None
                break
            del self._held[:written]
        if self._fd is None:
            self._held.clear()
        return True

    def finish(self, patience_s: float = 1.0) -> None:
        """Write the rest, waiting a moment for a slow reader."""
        if not self.flush() and self._poll is not None:
            import time

            deadline = time.monotonic() + patience_s
            while not self.flush() and time.monotonic() < deadline:
                self._poll.poll(50)


class LogFile(Console):
    """A daemon worker's log: lines with the time, without the commands' output, rotated by size."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = _append(path)
        super().__init__(self._file)

    @property
    def shows_output(self) -> bool:
        """Commands' output is in the store; here it would fill the disk."""
        return False

    def line(self, text: str) -> None:
        """Take one line, with the time before it."""
        import time

        super().line(time.strftime("%Y-%m-%d %H:%M:%S ") + text)

    def flush(self) -> bool:
        """Write, and turn over to a new file when this one is long."""
        done = super().flush()
        try:
            if os.fstat(self._file).st_size > LOG_BYTES:
                self._rotate()
        except OSError:
            pass
        return done

    def _rotate(self) -> None:
        for number in range(LOG_FILES - 1, 0, -1):
            older = self._path if number == 1 else f"{self._path}.{number - 1}"
            if os.path.exists(older):
                os.replace(older, f"{self._path}.{number}")
        fresh = _append(self._path)
        os.dup2(fresh, self._file)
        os.close(fresh)


def _append(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _is_file(fd: int) -> bool:
    import stat

    return stat.S_ISREG(os.fstat(fd).st_mode)
