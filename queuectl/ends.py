"""The ends of a worker's runs on their way to the store: noted, handed in with the next claims, told."""

from __future__ import annotations

import time

from queuectl import events, faults
from queuectl.ahead import Ahead
from queuectl.errors import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Mapping, Optional, Sequence

    from queuectl.console import Console
    from queuectl.db.base import Ended, Store
    from queuectl.execution import Execution
    from queuectl.job import Claim
    from queuectl.output_flow import OutputFlow
    from queuectl.report import Report

# How long a worker that was told to stop at once waits for a store that is away.
GIVE_UP_S = 10.0


class Ends:
    """What has ended in one worker and the store has not accepted, and what was claimed ahead meanwhile."""

    def __init__(
        self,
        store: Store,
        console: Console,
        number: int,
        flow: OutputFlow,
        report: Report,
        running: Mapping[int, Execution],
    ) -> None:
        self.due: List[Ended] = []  # to be handed in in the next turn
        self.ahead = Ahead(store)
        self._store = store
        self._console = console
        self._number = number
        self._flow = flow
        self._report = report
        self._running = running
        self._away_mono: Optional[float] = None  # since when the store has been away
        self._told = 0  # how many of those that are due, from the first on, the console has got

    @property
    def is_empty(self) -> bool:
        """Whether the store knows of every end, and nothing is claimed that has not begun."""
        return not self.due and self.ahead.is_empty

    @property
    def is_hopeless(self) -> bool:
        """Whether a worker in a hurry has waited for the store for long enough."""
        return self._away_mono is not None and time.monotonic() >= self._away_mono + GIVE_UP_S

    def hurry(self) -> None:
        """Count from the next failure on how long the store is away: this worker is to stop at once."""
        self._store.in_a_hurry = True
        self._away_mono = None

    def leave(self) -> bool:
        """Leave what the store does not know to whoever recovers this worker; say whether it knows everything.

        What was noted is handed in then, so this worker's entry in the store has to stay.
        """
        if self.is_empty:
            self.ahead.close()
            return True
        self._take_back()
        noted = self.ahead.leave(self.due, self._flow.pending)
        self._report.drop_held()
        self._console.at_once(events.gave_up(self._number, len(self.due), noted, self._store.many_hosts))
        return False

    def enter(self, journal: Optional[str]) -> None:
        """Begin anew as another worker: nothing of the earlier one is handed in."""
        self.due, self._told = [], 0
        self._away_mono = None
        self._report.drop_held()
        self._flow.pending = []
        self.ahead.enter(journal)

    def follow(self, worker_id: str, free: int, now_mono: float) -> List[Claim]:
        """Keep back what is due, and return what was claimed ahead for *free* slots; nothing if it is to be handed in.

        When its time is over, what was claimed ahead is given back, and all that was kept back is due.

        Raises:
            StoreUnavailable: It could not be given back, and is to be another time.
        """
        ahead = self.ahead
        if ahead.is_empty:
            return []
        if free > 0 and not ahead.is_over(now_mono):
            claims = ahead.follow(self.due, self._flow.pending, free)
            if claims:
                for ended in self.due:
                    self._tell(ended)
                self._report.holds = bool(ahead.ended)
                self.due, self._flow.pending = [], []
                faults.point("noted")
                return claims
        try:
            ahead.give_back(worker_id)
        except StoreUnavailable:
            self._is_away()
            raise
        self._away_mono = None
        self._take_back()
        return []

    def _is_away(self) -> None:
        if self._away_mono is None:
            self._away_mono = time.monotonic()

    def refill(self, worker_id: str, queues: Sequence[str]) -> str:
        """Hand in what was kept back, and claim ahead anew, while the last of what was held runs: no slot waits for it.

        Returns why the store could not be told, nothing if it was; then all of it is due.
        """
        self._take_back()
        try:
            self.ahead.take(self.hand_in(worker_id, 0, queues), 0, time.monotonic())
        except StoreUnavailable as error:
            return str(error)
        return ""

    def _take_back(self) -> None:
        """Have all that was kept back be due."""
        ahead = self.ahead
        self._told += len(ahead.ended)
        self.due = ahead.ended + self.due
        self._flow.pending = ahead.outputs + self._flow.pending
        ahead.ended, ahead.outputs = [], []

    def hand_in(self, worker_id: str, free: int, queues: Sequence[str]) -> List[Claim]:
        """Write all ends that are due and claim up to *free* jobs, or some more, in one transaction; tell the ends.

        Raises:
            StoreUnavailable: All of them are still due.
        """
        wanted = self.ahead.ask(self._begun())
        try:
            finished = self._store.finish(worker_id, self.due, free, queues, outputs=self._flow.pending, ahead=wanted)
        except StoreUnavailable:
            self.ahead.unanswered()
            self._is_away()
            raise
        self._away_mono = None
        for place, (ended, accepted) in enumerate(zip(self.due, finished.accepted)):
            if not accepted:
                self._console.line(events.refused(self._number, ended[0].job.id))
            elif place >= self._told:
                self._tell(ended)
        self.due, self._told = [], 0
        self._flow.pending = []
        self._report.accepted()
        self.ahead.handed_in(time.monotonic())
        return finished.claims

    def _begun(self) -> Iterator[int]:
        """Yield every run of this worker whose command has begun and whose end the store has not accepted."""
        for execution in self._running.values():
            yield execution.claim.run_id
        for claim, _, _ in self.due:
            yield claim.run_id

    def _tell(self, ended: Ended) -> None:
        claim, end, verdict = ended
        self._console.line(events.ended(self._number, claim.job, end.reason, verdict.state, verdict.delay_s))
