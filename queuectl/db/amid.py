"""How a call finds out that it comes in the middle of another one of the same thread.

Python runs a signal's handler, or the finalizer of some object, between any two steps of a program. It may come to the
``Queue`` whose call it has interrupted. A call that an exception has ended looks alike, but for the stack.
"""

from __future__ import annotations

import sys

from queuectl.errors import QueueInUse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Callable, Optional


def is_running(frame: FrameType) -> bool:
    """Return whether this thread will return to *frame*."""
    each: Optional[FrameType] = sys._getframe(1)
    while each is not None and each is not frame:
        each = each.f_back
    return each is not None


class Alone:
    """A context in which a function uses a connection; refused amid another function that does."""

    __slots__ = ("_frame", "_then")

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then  # what is to be done at its end
        self._frame: Optional[FrameType] = None  # the function that uses it

    def is_amid(self) -> bool:
        """Return whether the function that uses the connection is one that this thread will return to."""
        return self._frame is not None and is_running(self._frame)

    def __enter__(self) -> None:
        if self.is_amid():
            raise QueueInUse
        self._frame = sys._getframe(1)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._frame = None
        self._then()
