"""Claims that a worker makes ahead, for its next free slots, and ends that it records together.

With short commands, most of a worker's overhead is the transaction between one command and the next. So a worker
that runs many short commands in a row claims more jobs than it has free slots, starts each as soon as a slot is free,
and records the ends together. Nothing is at risk: the held claims and the unrecorded ends are in the worker's
journal, by which, after a ``kill -9``, recovery records the ends and undoes the claims. And nothing is held for
longer than ``HOLD_S``: then the ends are recorded, and the jobs that were not started are given back.
"""

from __future__ import annotations

from queuectl import faults
from queuectl.job import Claim
from queuectl.journal import Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Iterable, List, Optional

    from queuectl.db.base import Ended, OutputWrite, Store

# How long a claim is held, or an end kept back, at most. Too short for anybody to notice, and long enough for a row of
# commands that share their core with those of seven other workers.
HOLD_S = 0.05
# How many claims are held at most.
MOST = 15
# How many quick batches in a row it takes before any claim is held.
TRIALS = 4


class Ahead:
    """The claims that one worker holds, and the ends that it keeps back."""

    def __init__(self, store: Store) -> None:
        self.until_mono = 0.0  # until when claims and ends may stay here, by the monotonic clock
        self.ended: List[Ended] = []  # ends noted in the journal, not recorded in the store
        self.outputs: List[OutputWrite] = []  # the output that goes with them
        self._store = store
        self._held: List[Claim] = []
        self._journal: Optional[Journal] = None
        self._size = -TRIALS  # how many claims to hold; below 0, how many quick batches are still wanted
        self._handed_mono = 0.0
        self._progress = False  # whether any of the claims held last has been started
        self._stopped = False
        self._asked = False  # whether the journal says that a claim is in flight

    def enter(self, path: Optional[str]) -> None:
        """Start with nothing; *path* is where the journal goes, None if there can be none."""
        self.close()
        self._journal = Journal(path) if path is not None else None

    def close(self) -> None:
        """Forget everything and close the journal; what is in it is left to recovery."""
        self._held, self.ended, self.outputs = [], [], []
        self._size = -TRIALS
        self._asked = False
        if self._journal is not None:
            self._journal.close()

    @property
    def is_empty(self) -> bool:
        """Whether no claim is held and no end kept back."""
        return not self._held and not self.ended

    @property
    def is_low(self) -> bool:
        """Whether ends are kept back and the last held claim has been started."""
        return bool(self.ended) and not self._held

    def ask(self, known: Iterable[int]) -> int:
        """Return how many jobs to claim beyond the free slots, after noting which runs have begun, *known*.

        The worker may be killed between the commit of the claim and the arrival of the answer. Recovery then knows
        from the note that no command of any other run has begun, and undoes their claims.
        """
        journal = self._journal
        if self._size <= 0 or self._stopped or journal is None or not (journal.is_open or journal.begin(())):
            return 0
        if not journal.add((), (), (), known):
            return 0
        self._asked = True
        return self._size

    def unanswered(self) -> None:
        """Note that the claim failed.

        The journal must no longer say that only certain runs have begun, as others may begin now. If no record can
        be added, the journal is begun anew: better to lose the ends that were kept back than to leave a wrong note.
        """
        if self._asked and self._journal is not None and not self._journal.add((), (), ()):
            self._journal.begin(())
        self._asked = False

    def take(self, claims: List[Claim], free: int, now_mono: float) -> List[Claim]:
        """Hold the claims beyond the *free* slots, and return those to start now."""
        if len(claims) <= free:
            if self._asked and self._journal is not None:
                self._journal.begin(())
            self._asked = False
            return claims
        self._asked = False
        self._held, self._progress = claims[free:], False
        noted = self._journal is not None and self._journal.begin([claim.run_id for claim in self._held])
        self.until_mono = now_mono + HOLD_S if noted else 0.0
        return claims[:free]

    def handed_in(self, now_mono: float) -> None:
        """Note that ends were recorded: if the last batch went quickly, the next one may be larger."""
        taken_s = now_mono - self._handed_mono
        self._handed_mono = now_mono
        if taken_s < HOLD_S / 2:
            self._size = self._size + 1 if self._size < 0 else min(2 * self._size + 1, MOST)
        elif taken_s >= HOLD_S and self._size <= 0:
            self._size = -TRIALS

    def follow(self, ended: List[Ended], outputs: List[OutputWrite], free: int) -> List[Claim]:
        """Keep *ended* back and return up to *free* held claims to start.

        Returns nothing, and keeps nothing back, if no claim is held or the journal cannot be written.
        """
        next_ones, rest = self._held[:free], self._held[free:]
        if not next_ones:
            return []
        faults.point("noting")
        if self._journal is None or not self._journal.add([claim.run_id for claim in rest], ended, outputs):
            return []
        self._held, self._progress = rest, True
        self.ended += ended
        self.outputs += outputs
        now = self._store.now()
        return [Claim(claim.job, claim.run_id, now) for claim in next_ones]

    def remove(self, run_ids: Collection[int]) -> List[Claim]:
        """Stop holding the claims of these runs, and return them."""
        found = [claim for claim in self._held if claim.run_id in run_ids]
        self._held = [claim for claim in self._held if claim.run_id not in run_ids]
        return found

    def give_back(self, worker_id: str) -> None:
        """Give all held claims back to the store, for other workers.

        Raises:
            StoreUnavailable: They are still held.
        """
        if self._held:
            self._store.give_back(worker_id, [claim.run_id for claim in self._held])
            self._held = []
            self._size = self._size // 2 if self._progress and self._size > 1 else -TRIALS

    def stop(self) -> None:
        """Hold no claim from now on, as no further job is to be started."""
        self.until_mono = 0.0
        self._stopped = True

    def leave(self, ended: List[Ended], outputs: List[OutputWrite]) -> bool:
        """Note for recovery what the store could not be told; return whether that was possible.

        No command runs any more, so any other run that the store ascribes to this worker was never begun.
        """
        waiting = [claim.run_id for claim in self._held]
        known = [claim.run_id for claim, _, _ in ended]
        return self._journal is not None and self._journal.replace(waiting, ended, outputs, known)

    def is_over(self, now_mono: float) -> bool:
        """Return whether the time is over for which claims and ends may stay here."""
        return not self.is_empty and now_mono >= self.until_mono
