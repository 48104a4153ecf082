"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, Optional

    from queuectl.cli_commands.spec import Args

WIDTH = 30
LEAST_WIDTH = 5


class Bar:
    """A line that is drawn again and again; nothing at all if nobody sees it, or with ``--quiet``."""

    def __init__(self, args: Args) -> None:
        self._drawn = 0
        try:
            self.on = sys.stderr.isatty() and not args.quiet
        except (AttributeError, ValueError):  # a stream that was closed
            self.on = False

    def show(self, part: Optional[float], text: str) -> None:
        """Draw how far it is: a bar for a *part* of 1, and *text*; None: nobody knows of how much."""
        if not self.on:
            return
        if part is not None:
            part = min(part, 1.0)
            text = f"{part:4.0%}  {text}"
        # A line that is wider than the terminal could not be drawn over again.
        room = _columns() - 1
        width = min(WIDTH, room - len(text) - 3)
        if part is not None and width >= LEAST_WIDTH:
            filled = int(part * width)
            text = f"[{'#' * filled}{'.' * (width - filled)}] {text}"
        text = text[:room]
        sys.stderr.write("\r" + text.ljust(self._drawn))
        sys.stderr.flush()
        self._drawn = len(text)

    def clear(self) -> None:
        """Take the bar away."""
        if self._drawn:
            sys.stderr.write("\r" + " " * self._drawn + "\r")
            sys.stderr.flush()
            self._drawn = 0


@contextmanager
def counting(args: Args, done: str, of: int = 0) -> Iterator[Optional[Callable[[int], None]]]:
    """Give what shows how many jobs were *done* ("deleted") so far; 0: nobody knows *of* how many."""
    bar = Bar(args)

    def tell(count: int) -> None:
        bar.show(count / of if of else None, f"{count:,} jobs {done}")

    try:
        yield tell if bar.on else None
    finally:
        bar.clear()


def _columns() -> int:
    """Return the width of the terminal that standard error is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
