"""The PostgreSQL store: ends are written and jobs claimed. The rest of the contract is in its bases.

A turn is one statement (``postgres_turn``). Its answer may be lost with the connection: then it may have ended runs
and claimed jobs. The store remembers that it is in doubt, and before the worker's next turn it looks: jobs that
the worker owns without having been told are put back, and an end that is sent again counts as accepted if
its run has just this end.
"""

from __future__ import annotations

import os
import time

from queuectl import faults
from queuectl.db import home
from queuectl.db.base import Store
from queuectl.db.postgres_add import NOTIFY
from queuectl.db.postgres_bell import PostgresBell
from queuectl.db.postgres_claim import NO_LINES, Turn, come_back, sendable, stray
from queuectl.db.postgres_workers import PostgresWorkers
from queuectl.db.rules import LOOKS, PLENTY, Finished
from queuectl.db.run_folder import RunFolder
from queuectl.errors import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, TypeVar

    from queuectl.db.base import Ended, OutputWrite
    from queuectl.db.hooks import Hooks
    from queuectl.db.postgres import Address
    from queuectl.db.postgres_claim import Lines, Place
    from queuectl.db.postgres_crowd import Crowd
    from queuectl.db.postgres_line import Line
    from queuectl.db.postgres_link import Parameters
    from queuectl.db.postgres_run import Run
    from queuectl.db.postgres_transfer import PostgresPort
    from queuectl.job import Claim, Orders, Worker

    T = TypeVar("T")

# A job that is due so soon after its end may be the one to claim in the same call.
SOON_S = 1.0
# How long it is taken for granted that many jobs wait, or that not.
PLENTY_S = 0.25


class PostgresStore(PostgresWorkers, Store):
    """A store in one schema of a PostgreSQL database."""

    many_hosts = True

    def __init__(self, address: Address, create: bool = True, unfinished: bool = False) -> None:
        super().__init__(address)
        self._create, self._unfinished = create, unfinished
        #: The queues that had ready jobs when a claim last looked at all of them; a guess, verified when used.
        self.lines: Lines = NO_LINES
        #: Whether a claim last met more queues than those, and what is known of them.
        self.many = False
        self.crowd: Optional[Crowd] = None
        #: Queues that had a limit when they were the only one, and until when this is taken for granted.
        self.bounded_until_s: Dict[str, float] = {}
        #: Where in each queue the last claim was, and until when claims go on from there.
        self.places: Dict[str, Place] = {}
        self.places_until_s: Dict[str, float] = {}
        self._held: Dict[str, Set[int]] = {}  # by worker: runs that were given out and are not answered yet
        self._doubt: Set[str] = set()  # workers whose last turn got no answer, or that have a new connection
        self._wary: Set[str] = set()  # workers of which some turn got no answer
        self._sent: Set[int] = set()  # runs whose ends were sent and got no answer
        self._plenty_until_s = 0.0  # until when it is known whether many jobs wait; below 0, that they do not
        self._bell: Optional[PostgresBell] = None
        self._connected()
        #: Where the workers of this host keep their notes.
        self.run_folder = RunFolder(os.path.join(home(), f"run-{self.store_id}"), home())

    def _once(self, sql: str, parameters: Parameters = None, prepare: Optional[bool] = None) -> List[Any]:
        self.places_until_s, self.crowd = {}, None  # whatever is written may put a job before them
        return super()._once(sql, parameters, prepare)

    def _write(self, body: Callable[[Run], T]) -> T:
        self.places_until_s, self.crowd = {}, None  # whatever is written may put a job before them
        return super()._write(body)

    def close(self) -> None:
        """Close all connections; calling it twice is allowed."""
        if self._bell is not None:
            self._bell.close()
        super().close()

    def sync(self) -> None:
        """Do nothing: every commit was on the server's disk before its answer came."""

    def port(self) -> PostgresPort:
        """See ``Store.port``."""
        from queuectl.db.postgres_transfer import PostgresPort

        return PostgresPort(self)

    # -- runs ---------------------------------------------------------------------------------

    def claim(self, worker_id: str, count: int, queues: Sequence[str] = (), now: Optional[float] = None) -> List[Claim]:
        """See ``Store.claim``."""
        self._clear_doubt(worker_id)
        faults.point("claiming")
        turn = Turn(self, worker_id, queues, now)
        try:
            turn.claim(count)
        except StoreUnavailable:
            if not turn.claims:
                raise
        self.crowd = turn.crowd
        faults.point("claimed")
        return self._hold(worker_id, turn.claims)

    def finish(
        self,
        worker_id: str,
        ended: Sequence[Ended],
        count: int = 0,
        queues: Sequence[str] = (),
        now: Optional[float] = None,
        outputs: Sequence[OutputWrite] = (),
        ahead: int = 0,
        hooks: Optional[Hooks] = None,
    ) -> Finished:
        """See ``Store.finish``.

        Ends and claims are one transaction where nothing that ends here may be claimed at once, no output is
        replaced, no jobs have just become due, and no queue has a limit or one job is claimed. Otherwise the
        ends come first; if the rest then fails, the answer says what was done so far. Jobs are claimed *ahead* only in
        that one transaction, or behind ends with hooks, which come first so that a hook can be claimed, too.
        """
        self._clear_doubt(worker_id)
        faults.point("finishing" if ended else "claiming")
        turn = Turn(self, worker_id, queues, now)
        ends = sendable(ended)
        if ahead and not self._plenty(ahead, queues):
            ahead = 0
        together = count + ahead if ended or ahead else 0
        found = hooks.after_ends(ended) if hooks else {}
        if found or come_back(ended, (self.now() if now is None else now) + SOON_S):
            together, turn.crowd = 0, None
        accepted = [False] * len(ended)
        if ended or outputs or ahead:
            for place in turn.hand_in(ends, outputs, together, found):
                accepted[place] = True
            self._answered(worker_id, (run_id for (_, run_id, _), _, _ in ended))
            self._leave_last(worker_id, turn, count, together, now)
        try:
            if any(end["state"] == "pending" for end in ends):
                self._rows(NOTIFY, {"channel": self.channel})
            apart = ahead if found else 0
            turn.claim(count, apart)
            self._leave_last(worker_id, turn, count, count + apart, now)
        except StoreUnavailable:
            if not ended and not turn.claims:
                raise
        self.crowd = turn.crowd
        faults.point("finished" if ended else "claimed")
        return Finished(accepted, self._hold(worker_id, turn.claims))

    def _plenty(self, ahead: int, queues: Sequence[str]) -> bool:
        """Say whether so many jobs wait that some may be claimed ahead; looked at now and then."""
        now_s = time.monotonic()
        if now_s > abs(self._plenty_until_s):
            waiting = self._rows(_WAITING, {"queues": list(queues) or None})[0][0]
            later_s = time.monotonic()
            self._plenty_until_s = later_s + max(PLENTY_S, LOOKS * (later_s - now_s))
            if waiting < ahead * PLENTY:
                self._plenty_until_s = -self._plenty_until_s
        return self._plenty_until_s > 0

    def _leave_last(self, worker_id: str, turn: Turn, count: int, asked: int, now: Optional[float]) -> None:
        """Give back what was claimed ahead if fewer were there than were asked for: whoever is idle is to have them."""
        if not count < len(turn.claims) < asked:
            return
        self._plenty_until_s = -self._plenty_until_s
        try:
            self.give_back(worker_id, [claim.run_id for claim in turn.claims[count:]], now)
        except StoreUnavailable:  # perhaps they were, and run elsewhere: none may begin here, told of or not
            self.in_doubt(worker_id)
        del turn.claims[count:]
        turn.crowd = None  # it takes them for claimed

    def give_back(self, worker_id: str, run_ids: Sequence[int], now: Optional[float] = None) -> int:
        """See ``Store.give_back``."""
        given = super().give_back(worker_id, run_ids, now)
        self._answered(worker_id, run_ids)
        return given

    def append_outputs(self, writes: Sequence[OutputWrite]) -> None:
        """See ``Store.append_outputs``."""
        if writes:
            turn = Turn(self, "")
            turn.hand_in([], writes, 0)
            self.crowd = turn.crowd
            faults.point("flushing")

    # -- doubt --------------------------------------------------------------------------------

    def _hold(self, worker_id: str, claims: List[Claim]) -> List[Claim]:
        """Note that the worker is told of these runs, and return them."""
        if claims:
            self._held.setdefault(worker_id, set()).update(claim.run_id for claim in claims)
        return claims

    def _arrived(self, line: Line, seen: Optional[Tuple[Any, ...]]) -> None:
        """See ``PostgresSchema``; besides, doubt what a worker of this process owns.

        The server may be another one: a standby that was promoted, and that never received the last ends.
        """
        super()._arrived(line, seen)
        self._doubt.update(self._held)

    def in_doubt(self, worker_id: str) -> None:
        """Note that the worker may own runs that it was not told of."""
        self._doubt.add(worker_id)
        self._wary.add(worker_id)

    def unanswered(self, ends: Sequence[Dict[str, Any]]) -> None:
        """Note that these ends were sent and got no answer."""
        self._sent.update(end["run_id"] for end in ends)

    def sent_before(self, ends: Sequence[Dict[str, Any]]) -> bool:
        """Say whether one of these ends was sent without an answer."""
        return not self._sent.isdisjoint(end["run_id"] for end in ends)

    def _answered(self, worker_id: str, run_ids: Iterable[int]) -> None:
        """Forget runs whose ends were accepted or refused, or which were given back."""
        answered = set(run_ids)
        self._held.get(worker_id, set()).difference_update(answered)
        self._sent -= answered

    def _clear_doubt(self, worker_id: str) -> None:
        """After a turn without an answer, or over a new connection, put back what nobody runs."""
        if worker_id in self._doubt:
            self._doubt.discard(worker_id)  # before: there may be one more new connection meanwhile
            try:
                self._put_back_untold(worker_id)
            except BaseException:
                self._doubt.add(worker_id)
                raise

    def _put_back_untold(self, worker_id: str) -> None:
        """Put back what the worker owns without having been told, or after its end was accepted: nobody runs it."""
        held = self._held.get(worker_id, set())
        rows = [row for row in self._rows(_OWNED_RUNS, (worker_id,)) if row[1] not in held]
        if rows:
            ends = [stray(place, *row) for place, row in enumerate(rows)]
            Turn(self, worker_id).hand_in(ends, (), 0)
            self._rows(NOTIFY, {"channel": self.channel})

    def register(self, worker: Worker) -> None:
        """See ``Store.register``."""
        super().register(worker)
        self._held.pop(worker.id, None)

    def unregister(self, worker_id: str) -> None:
        """See ``Store.unregister``."""
        self._clear_doubt(worker_id)
        super().unregister(worker_id)
        self._held.pop(worker_id, None)
        self._wary.discard(worker_id)

    # -- being woken --------------------------------------------------------------------------

    def doorbell(self) -> PostgresBell:
        """Return what wakes this process's worker when work comes in."""
        if self._bell is None:
            self._bell = PostgresBell(self)
        return self._bell

    def orders(self, worker_id: str) -> Orders:
        """See ``Store.orders``."""
        self._come_by(worker_id)
        return super().orders(worker_id)

    def news(self, worker_id: str, anyway: bool = False) -> Optional[Orders]:
        """See ``Store.news``."""
        orders = super().news(worker_id, anyway)
        if orders is not None:
            self._come_by(worker_id)
        return orders

    def _come_by(self, worker_id: str) -> None:
        """Take a worker's notifications on the way: it looks for orders often when it is busy.

        A request that was given up may reach the server late, after the worker had asked what it owns: one that
        has met with that asks again.
        """
        if self._bell is not None:
            self._bell.drain()
        if worker_id in self._wary:
            self._put_back_untold(worker_id)
        else:
            self._clear_doubt(worker_id)


_WAITING = """
    SELECT coalesce(sum(pending + failed), 0)
      FROM queuectl.counts
     WHERE %(queues)s::text[] IS NULL OR queue = ANY(%(queues)s::text[])
    """

_OWNED_RUNS = """
    SELECT seq, last_run_id, extract(epoch FROM clock_timestamp())::float8
      FROM queuectl.jobs
     WHERE worker_id = %s
     ORDER BY seq
    """
