"""Jobs that a deed in many steps is about: found page by page beside the transactions that change them.

Looking for them may take a walk through the whole store. Whoever writes meanwhile must not wait for that, and what was
walked over once is not walked over again in each step.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Optional, Sequence, Tuple

    from queuectl.job import JobFilter

    Pages = Callable[[], Iterator[Sequence[int]]]


class Sought:
    """The rows of jobs that one search finds, as many at a time as are wanted."""

    def __init__(self, pages: Iterator[Sequence[int]]) -> None:
        self._pages = pages
        self._left: List[int] = []

    def take(self, limit: int) -> List[int]:
        """Return up to *limit* rows, none if there are no more."""
        while len(self._left) < limit:
            page = next(self._pages, None)
            if page is None:
                break
            self._left += page
        taken, self._left = self._left[:limit], self._left[limit:]
        return taken

    def put_back(self, seqs: Sequence[int]) -> None:
        """Take rows back that were not got to."""
        self._left = [*seqs, *self._left]


class Steps:
    """Where the steps of one deed have come to, from call to call."""

    def __init__(self) -> None:
        self._going: Optional[Tuple[JobFilter, Sought]] = None

    def step(
        self, which: JobFilter, pages: Pages, limit: int, deed: Callable[[List[int]], Tuple[int, Sequence[int]]]
    ) -> Optional[int]:
        """Do *deed* to the next rows of *which*; return to how many. At 0 a walk from the first on has found nothing.

        None: to none yet, as the next one takes several calls.

        Args:
            which: Where another was asked for last, the search begins anew.
            pages: Begins a search.
            limit: At most so many rows.
            deed: Returns to how many of the rows it was done, for they may have changed, and which are left over.
        """
        going = self._going
        is_whole = going is None or going[0] != which
        while True:
            if going is None or going[0] != which:
                going = which, Sought(pages())
            self._going = going
            seqs = going[1].take(limit)
            if seqs:
                done, left = deed(seqs)
                going[1].put_back(left)
                if done or left:
                    return done or None
            elif is_whole:
                self._going = None
                return 0
            else:  # behind the place where it is now others may have come to belong to them
                going, is_whole = None, True
