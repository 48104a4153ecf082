"""How the ends of a worker's runs get to the store: noted in the journal, recorded with the next claim, announced."""

from __future__ import annotations

import time

from queuectl import events, faults
from queuectl.ahead import Ahead
from queuectl.db.hooks import hooks_of
from queuectl.errors import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Mapping, Optional, Sequence

    from queuectl.config import Config
    from queuectl.console import Console
    from queuectl.db.base import Ended, Store
    from queuectl.execution import Execution
    from queuectl.job import Claim
    from queuectl.output_flow import OutputFlow
    from queuectl.report import Report

# How long a worker that was told to stop at once waits for a store that is unavailable.
GIVE_UP_S = 10.0


class Ends:
    """The ends in one worker that the store does not know yet, and the claims made ahead.

    An end is either due (to be recorded in the next turn) or kept back in ``ahead`` (noted in the journal, to be
    recorded together with later ones).
    """

    def __init__(
        self,
        store: Store,
        console: Console,
        number: int,
        flow: OutputFlow,
        report: Report,
        running: Mapping[int, Execution],
        config: Config,
    ) -> None:
        self.due: List[Ended] = []  # ends to be recorded in the next turn
        self.ahead = Ahead(store)
        self._store = store
        self._console = console
        self._number = number
        self._flow = flow
        self._report = report
        self._running = running
        self.config = config  # the settings in force
        self._away_mono: Optional[float] = None  # since when the store has been unavailable
        self._told = 0  # how many of the due ends, counted from the first, the console has been given

    @property
    def is_empty(self) -> bool:
        """Whether the store knows every end, and every claimed job has been started."""
        return not self.due and self.ahead.is_empty

    @property
    def is_hopeless(self) -> bool:
        """Whether the store has been unavailable for longer than a worker that is to stop at once waits."""
        return self._away_mono is not None and time.monotonic() >= self._away_mono + GIVE_UP_S

    def hurry(self) -> None:
        """Prepare to stop at once: wait for the store ``GIVE_UP_S`` at most, counted from its next failure."""
        self._store.in_a_hurry = True
        self._away_mono = None

    def leave(self) -> bool:
        """Note in the journal what the store does not know; return True if the store knows everything.

        If False, the worker's entry has to stay in the store: the sweeper that finds it records the noted ends.
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
        """Start with nothing, under a new worker id; *journal* is the new journal's path, None if there can be none.

        What the worker's earlier id has left is dropped: the store would refuse it.
        """
        self.due, self._told = [], 0
        self._away_mono = None
        self._report.drop_held()
        self._flow.pending = []
        self.ahead.enter(journal)

    def follow(self, worker_id: str, free: int, now_mono: float) -> List[Claim]:
        """Keep the due ends back and return claims made ahead for *free* slots, or nothing.

        If nothing is returned, the ends are still due, and so are those that were kept back before; claims that were
        still held (because their time is over, for instance) have been given back to the store.

        Raises:
            StoreUnavailable: The claims could not be given back; they are still held.
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
            self.found_away()
            raise
        self._away_mono = None
        self._take_back()
        return []

    def found_away(self) -> None:
        """Note that the store is unavailable, so that a worker which is to stop at once does not wait for ever."""
        if self._away_mono is None:
            self._away_mono = time.monotonic()

    def refill(self, worker_id: str, queues: Sequence[str]) -> str:
        """Record the ends that were kept back and claim ahead anew, while the last job claimed ahead runs.

        No slot waits for this transaction. Returns an empty string; or, if the store is unavailable, the reason, and
        the ends are due.
        """
        self._take_back()
        try:
            self.ahead.take(self.hand_in(worker_id, 0, queues), 0, time.monotonic())
        except StoreUnavailable as error:
            return str(error)
        return ""

    def _take_back(self) -> None:
        """Make all ends that were kept back due."""
        ahead = self.ahead
        self._told += len(ahead.ended)
        self.due = ahead.ended + self.due
        self._flow.pending = ahead.outputs + self._flow.pending
        ahead.ended, ahead.outputs = [], []

    def hand_in(self, worker_id: str, free: int, queues: Sequence[str]) -> List[Claim]:
        """Record all due ends and claim jobs in one transaction; give the ends that were accepted to the console.

        Up to *free* jobs are claimed, plus as many as ``ahead`` asks for.

        Raises:
            StoreUnavailable: Nothing was recorded; all ends are still due.
        """
        wanted = self.ahead.ask(self._begun())
        try:
            finished = self._store.finish(
                worker_id, self.due, free, queues,
                outputs=self._flow.pending, ahead=wanted, hooks=hooks_of(self.config),
            )  # fmt: skip
        except StoreUnavailable:
            self.ahead.unanswered()
            self.found_away()
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
        """Yield the id of every run whose command was started and whose end the store has not accepted."""
        for execution in self._running.values():
            yield execution.claim.run_id
        for claim, _, _ in self.due:
            yield claim.run_id

    def _tell(self, ended: Ended) -> None:
        claim, end, verdict = ended
        self._console.line(events.ended(self._number, claim.job, end.reason, verdict.state, verdict.delay_s))
