"""Claims that a worker holds for its next free slot, and ends that it hands in together.

When short commands follow each other closely, the transaction between two of them is most of what a worker adds. A
worker that sees such a row claims some jobs more than it has free slots, begins each as soon as a slot is free, and
hands the ends in together. Nothing is risked by it: what it holds and what has ended stands in its journal, so that
after a ``kill -9`` the ends are accepted and the claims undone; and for ``HOLD_S`` at most, after which what has
ended is handed in and what has not begun is given back.
"""

from __future__ import annotations

from queuectl import faults
from queuectl.job import Claim
from queuectl.journal import Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, Iterable, List, Optional

    from queuectl.db.base import Ended, OutputWrite, Store

# How long a job is held, or the end of one not handed in. Nobody notices it, and it is long enough for a row of
# commands that share their core with those of seven other workers.
HOLD_S = 0.05
# How many jobs are held at most.
MOST = 15
# How often in a row all had to go quickly before any job is held.
TRIALS = 4


class Ahead:
    """What one worker holds."""

    def __init__(self, store: Store) -> None:
        self.until_mono = 0.0  # when what is here has to leave, by the monotonic clock
        self.ended: List[Ended] = []  # noted in the journal, not handed in
        self.outputs: List[OutputWrite] = []  # that belong to them
        self._store = store
        self._held: List[Claim] = []
        self._journal: Optional[Journal] = None
        self._size = -TRIALS  # how many to hold; below 0, how many trials are left
        self._handed_mono = 0.0
        self._progress = False  # whether any of those held last has begun
        self._stopped = False
        self._asked = False  # whether the journal says that a claim is on its way

    def enter(self, path: Optional[str]) -> None:
        """Begin with nothing; *path* is the journal's, None where there can be none."""
        self.close()
        self._journal = Journal(path) if path is not None else None

    def close(self) -> None:
        """Forget everything: whatever is in the journal is for others now."""
        self._held, self.ended, self.outputs = [], [], []
        self._size = -TRIALS
        self._asked = False
        if self._journal is not None:
            self._journal.close()

    @property
    def is_empty(self) -> bool:
        """Whether no job is held and every end was handed in."""
        return not self._held and not self.ended

    @property
    def is_low(self) -> bool:
        """Whether the last job that was held has begun, and ends are kept back."""
        return bool(self.ended) and not self._held

    def ask(self, known: Iterable[int]) -> int:
        """Return how many jobs to claim beyond the free slots, after noting that only the runs *known* have begun.

        The worker may be killed after the store has committed the claim and before the answer is here. Whoever recovers
        it then knows from the note that the commands of all other runs have not begun.
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

        The journal must no longer say which runs alone have begun, for others may begin now. If it cannot be added to,
        it is begun anew: better an empty one, by which ends that were kept back are lost, than a wrong one.
        """
        if self._asked and self._journal is not None and not self._journal.add((), (), ()):
            self._journal.begin(())
        self._asked = False

    def take(self, claims: List[Claim], free: int, now_mono: float) -> List[Claim]:
        """Hold what is beyond *free* slots, and return the claims to begin now."""
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
        """Note that a batch was handed in: if it was through quickly, the next one may be larger."""
        taken_s = now_mono - self._handed_mono
        self._handed_mono = now_mono
        if taken_s < HOLD_S / 2:
            self._size = self._size + 1 if self._size < 0 else min(2 * self._size + 1, MOST)
        elif taken_s >= HOLD_S and self._size <= 0:
            self._size = -TRIALS

    def follow(self, ended: List[Ended], outputs: List[OutputWrite], free: int) -> List[Claim]:
        """Keep *ended* back and return what to begin in its place; nothing if nothing is held or can be noted."""
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
        """Take the claims of these runs out, and return them."""
        found = [claim for claim in self._held if claim.run_id in run_ids]
        self._held = [claim for claim in self._held if claim.run_id not in run_ids]
        return found

    def give_back(self, worker_id: str) -> None:
        """Let others have what is held.

        Raises:
            StoreUnavailable: It is still held.
        """
        if self._held:
            self._store.give_back(worker_id, [claim.run_id for claim in self._held])
            self._held = []
            self._size = self._size // 2 if self._progress and self._size > 1 else -TRIALS

    def stop(self) -> None:
        """Hold no job any more: nothing is to begin."""
        self.until_mono = 0.0
        self._stopped = True

    def leave(self, ended: List[Ended], outputs: List[OutputWrite]) -> bool:
        """Note what the store could not be told, for whoever recovers this worker; say whether it was noted.

        Nothing runs any more: what else this worker has by the store's account has not begun, told or not.
        """
        waiting = [claim.run_id for claim in self._held]
        known = [claim.run_id for claim, _, _ in ended]
        return self._journal is not None and self._journal.replace(waiting, ended, outputs, known)

    def is_over(self, now_mono: float) -> bool:
        """Say whether what is here has to leave now."""
        return not self.is_empty and now_mono >= self.until_mono
