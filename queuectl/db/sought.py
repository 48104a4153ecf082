"""The jobs that an operation in many steps works on: searched for outside of the transactions that change them.

A search may have to walk through the whole store. Other writers must not wait for that, and no step repeats what an
earlier one has walked through.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Optional, Sequence, Tuple

    from queuectl.job import JobFilter

    Pages = Callable[[], Iterator[Sequence[int]]]


class Search:
    """The row numbers of the jobs that one search finds, handed out as many at a time as are wanted."""

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
        """Take back rows that the caller did not get to."""
        self._left = [*seqs, *self._left]


class Steps:
    """An operation on all jobs of a filter, one step per call; the search goes on from call to call."""

    def __init__(self) -> None:
        self._current: Optional[Tuple[JobFilter, Search]] = None

    def step(
        self, which: JobFilter, pages: Pages, limit: int, act: Callable[[List[int]], Tuple[int, Sequence[int]]]
    ) -> Optional[int]:
        """Call *act* for the next jobs of *which*; return how many it has dealt with.

        0 means that a search from the first row on has found none. None means that *act* has only begun with the next
        job, which takes several calls.

        Args:
            which: If it is not the filter of the last call, a new search begins.
            pages: Begins a search.
            limit: How many jobs at most.
            act: Takes row numbers; returns how many of these jobs it has dealt with (some may have changed since they
                were found), and the rows that it did not get to.
        """
        current = self._current
        is_whole = current is None or current[0] != which  # whether the search began at the first row in this call
        while True:
            if current is None or current[0] != which:
                current = which, Search(pages())
            self._current = current
            seqs = current[1].take(limit)
            if seqs:
                done, left = act(seqs)
                current[1].put_back(left)
                if done or left:
                    return done or None
            elif is_whole:
                self._current = None
                return 0
            else:  # jobs in front of the place where the search was may match by now
                current, is_whole = None, True
