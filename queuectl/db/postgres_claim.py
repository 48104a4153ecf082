"""One call of ``finish`` or ``claim``: choose statements of ``postgres_turn``, send them, act on their answers."""

from __future__ import annotations

import json
import os
import time

from queuectl import faults
from queuectl.db import postgres_turn as texts
from queuectl.db.postgres_crowd import BATCH, Crowd
from queuectl.db.postgres_hooks import parameters
from queuectl.db.postgres_line import ConnectionLost, boot_s
from queuectl.db.postgres_turn import (
    ALONE,
    ENDS_WITH_HOOKS,
    FEW,
    FIRST_OF_JOB,
    KNOWN,
    LIMITED,
    LINES,
    MANY,
    MOST_LINES,
    NONE,
    SLACK,
    chunk,
    shard_of,
    turn_sql,
)
from queuectl.db.rules import plain
from queuectl.job import Claim, Job, Outcome
from queuectl.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

    from queuectl.db.base import Ended, OutputWrite
    from queuectl.db.hooks import Hook
    from queuectl.db.postgres_run import Run
    from queuectl.db.postgres_store import PostgresStore

    Execute = Callable[[str, Dict[str, Any]], List[Any]]

# How many jobs that others hold a claim from many queues considers, before it gives up.
MOST_SLACK = 4096
# How long claims rely on the list of queues with ready jobs before it is read anew; new queues are noticed at once.
LINES_S = 10.0
# How long claims go on from the place of the last one, at most, before one starts at the queue's head again. The time
# is a random part of this, so that workers take turns: the first to start at the head pays for all, as it marks the
# dead index entries there.
AHEAD_S = 0.4


class Place(NamedTuple):
    """Where the last claim from a queue was, so that the next one need not walk over the jobs claimed before.

    Until the next vacuum, the index of the ready jobs keeps an entry for each claimed job, so that the head of a busy
    queue lies behind thousands of dead entries. Jobs of a higher priority are looked for all the same, and the whole
    queue if nothing is found or the place is old. So only a job that comes back with an earlier ``run_at`` and the same
    priority, from a stopped or lost worker for instance, may wait ``AHEAD_S`` longer than its order says.
    """

    priority: int
    run_at: float
    seq: int


class Lines(NamedTuple):
    """The queues that had ready jobs at one look, in the order of their names; empty: not known."""

    names: Sequence[str]
    until_s: float


NO_LINES = Lines((), 0.0)
_NOWHERE = (None, None, None)


class Turn:
    """One call in progress: the claims so far, and what the last answer said about further ones."""

    def __init__(
        self, store: PostgresStore, worker_id: str, queues: Sequence[str] = (), now: Optional[float] = None
    ) -> None:
        self.claims: List[Claim] = []
        self._store = store
        self._worker_id = worker_id
        self._queues = list(queues)
        self._now = now
        self._more = True  # whether another statement may claim more
        self._due = False  # whether due jobs must be promoted first
        self._limited = False  # whether a queue with a limit has ready jobs
        self._crowded = False  # whether LINES could not claim because of limits, which must be locked in order then
        self._promoted = False
        self._slack = SLACK
        self.crowd: Optional[Crowd] = store.crowd  # what is known of many queues
        self._looked = False  # whether the crowd was read in this call
        self._some: Sequence[str] = ()  # which of many queues the next statement asks
        self._again = False  # whether ends are sent that were sent before
        self._sending: Sequence[Dict[str, Any]] = ()  # the ends in the statement under way
        self._claiming = False  # whether the statement under way may claim

    # -- what a call is made of ---------------------------------------------------------------

    def hand_in(
        self,
        ends: List[Dict[str, Any]],
        outputs: Sequence[OutputWrite],
        count: int,
        hooks: Optional[Dict[int, Hook]] = None,
    ) -> List[int]:
        """Write ends and output, and claim up to *count* jobs in the same statement; return which ends were accepted.

        The return has the place (``ord``) of each accepted end. An end that was sent before without an answer counts
        as accepted if it was written then. *hooks*, of ends by their places, are stored with these; without claims.
        """
        self._again = self._store.sent_before(ends)
        cuts = [(run_id, *gone) for run_id, _, gone in outputs if gone is not None]
        if not cuts:
            return self._send(self._by_itself, self._kind(count) if count else NONE, count, ends, outputs, hooks=hooks)

        def body(run: Run) -> List[int]:
            for cut in cuts:
                run("DELETE FROM queuectl.output WHERE run_id = %s AND start >= %s AND start < %s", cut)
            return self._send(self._inside(run), NONE, 0, ends, outputs, hooks=hooks)

        accepted: List[int] = self._sure(body, ends)
        return accepted

    def claim(self, count: int, ahead: int = 0) -> None:
        """Claim until there are *count* claims and *ahead* more, or no more jobs can be had.

        Where a queue has a limit, none are claimed ahead; nor is a single one, as that statement sees to limits itself.
        """
        while self._more and len(self.claims) < count + ahead:
            if self._due:
                for name, *key in self._store._once(texts.PROMOTE, {"now": self._now}):
                    if self.crowd is not None:
                        self.crowd.found(name, *key)
                faults.point("promoting")
                self._promoted = True
            ahead = 0 if self._limited or count + ahead - len(self.claims) == 1 else ahead
            wanted = count + ahead - len(self.claims)
            if wanted <= 0:
                return
            kind = self._kind(wanted)
            if self._limited and (wanted > 1 or kind != LINES or self._crowded):
                self._claim_limited(wanted)
            else:
                self._send(self._by_itself, kind, wanted)

    def _claim_limited(self, count: int) -> None:
        """Claim from queues with limits, counting what runs in each under a lock, so one claim at a time."""
        begun = len(self.claims)

        def body(run: Run) -> None:
            del self.claims[begun:]  # those of an earlier try, which was rolled back
            asked = self._some or self._queues
            found = run(texts.LOOK_AT, {"queues": list(asked)}) if asked else run(texts.LOOK)
            limits = dict(found.fetchall())
            rooms = _rooms(run, limits)
            to_lock = sorted(name for name, room in rooms.items() if room is not None)
            for name in to_lock:
                run(texts.LOCK_QUEUE, {"name": f"{self._store.schema} {name}"})
            if to_lock:  # anew: somebody may have paused one, or changed its limit, while its lock was waited for
                limits = dict(run(texts.LOOK_AT, {"queues": list(rooms)}).fetchall())
                rooms = {name: room for name, room in _rooms(run, limits).items() if room is None or name in to_lock}
            self._send(self._inside(run), LIMITED, count, more={"names": list(rooms), "rooms": list(rooms.values())})

        try:
            self._sure(body, [])
        except BaseException:
            del self.claims[begun:]
            raise

    # -- statements ---------------------------------------------------------------------------

    def _by_itself(self, sql: str, values: Dict[str, Any]) -> List[Any]:
        """Run one statement as a transaction of its own."""
        try:
            return self._store._once(sql, values, prepare=True)
        except ConnectionLost:
            self._no_answer(self._sending)
            raise

    def _inside(self, run: Run) -> Execute:
        return lambda sql, values: run(sql, values).fetchall()

    def _sure(self, body: Callable[[Run], Any], ends: List[Dict[str, Any]]) -> Any:
        try:
            return self._store._write(body)
        except ConnectionLost:
            self._no_answer(ends)
            raise

    def _no_answer(self, ends: Sequence[Dict[str, Any]]) -> None:
        """Note what may have been done although no answer came.

        Claims of the worker are in doubt only if the statement could claim. A sweeper that records the ends of a dead
        worker claims nothing; that worker's open runs are not in doubt and must not be put back for this.
        """
        self._store.unanswered(ends)
        if self._claiming:
            self._store.in_doubt(self._worker_id)

    def _kind(self, count: int) -> str:
        """Choose the kind of statement: for one or few queues if probably no others have jobs, which it verifies."""
        now_s = time.monotonic()
        names: Sequence[str] = self._queues
        self._some = ()
        if not names:
            names, until_s = self._store.lines
            if not names or now_s > until_s:
                return self._kind_for_many(count)
        if len(names) == 1 and now_s > self._store.bounded_until_s.get(names[0], 0.0):
            return KNOWN if self._queues else ALONE
        return LINES if len(names) <= MOST_LINES else self._kind_for_many(count)

    def _kind_for_many(self, count: int) -> str:
        """Choose the kind of statement if there are many queues: for the most urgent ones, where these are known."""
        if self._queues or self._store.many:
            if self.crowd is None or not self.crowd.serves(self._queues):
                self._look()
            if self.crowd is not None and not self._looked and not self.crowd.first(1):
                self._look()
            if self.crowd is not None:
                self._some = self.crowd.first(count)
        if self._some:
            return LINES
        return FEW if self._queues else MANY

    def _look(self) -> None:
        """Read the heads of all queues anew."""
        self._looked = True
        self.crowd = Crowd(self._store._rows, self._queues)
        if not self.crowd.many and not self._queues:
            self.crowd = None
            self._store.many = False

    def _single(self, kind: str, count: int, ends: Sequence[Dict[str, Any]]) -> bool:
        """Return whether ``SINGLE`` will do: at most one claim, and at most one end, final and not sent before."""
        return (
            kind in (NONE, KNOWN, ALONE, LINES)
            and count <= 1
            and len(ends) <= 1
            and not (ends and (self._again or ends[0]["waits"] or ends[0]["started_at"] is not None))
        )

    def _send(
        self,
        execute: Execute,
        kind: str,
        count: int,
        ends: Sequence[Dict[str, Any]] = (),
        outputs: Sequence[OutputWrite] = (),
        more: Optional[Dict[str, Any]] = None,
        hooks: Optional[Dict[int, Hook]] = None,
    ) -> List[int]:
        """Run one statement, take its claims, and return the places (``ord``) of the accepted ends."""
        self._sending, self._claiming = ends, kind != NONE
        single = not hooks and self._single(kind, count, ends)
        if kind == LINES and not single:
            kind = FEW if self._some or self._queues else MANY
        asked = chunk(min(count, BATCH) if self._some else count)
        names = self._names(kind)
        until_s, self._store.places_until_s = self._still(), {}
        lines = names if kind in (KNOWN, ALONE, LINES) else ()
        places = {name: self._store.places[name] for name in lines if name in until_s}
        parts = _parts(outputs)
        values: Dict[str, Any] = {
            "now": self._now, "worker": self._worker_id, "shard": shard_of(self._worker_id), "promoted": self._promoted,
            "run_ids": [key[0] for key in parts], "starts": [key[1] for key in parts], "parts": list(parts.values()),
            **_where(kind, names, places), "least": self.crowd.least if self.crowd is not None and self._some else None,
        }  # fmt: skip
        if single:
            sql = texts.SINGLE if kind != LINES else texts.SINGLE_OF_MANY if self._some else texts.SINGLE_OF_LINES
            values.update(ends[0] if ends else texts.NO_END, only=not (self._queues or self._some or kind == NONE))
            if not parts:
                values.update(run_ids=None, starts=None, parts=None)
        else:
            sql = turn_sql(kind, asked, self._slack, bool(places)) if not hooks else ENDS_WITH_HOOKS
            if hooks:
                values.update(parameters(hooks, self._store.channel))
            values.update(ends=json.dumps(ends), queues=list(names), again=self._again, **(more or {}))
        sent_s = boot_s()
        rows = execute(sql, values)
        first = rows[0]
        self._store.settings_seen = first[0]
        if self._now is None:
            self._store._clock_is(first[1], sent_s)
        if kind != NONE:
            fresh = self._take(kind, names, asked, rows)
            crowd = self.crowd if self._some else None
            known = len(fresh) == asked or (crowd is not None and crowd.least is not None and not self._more)
            self._settle(fresh, asked, lines, until_s)
            if crowd is not None and (known or not self._more):
                crowd.answered(names, fresh, asked, first[8] if single else None)
                self._more = True  # other queues may have more
        elif not any(end["waits"] for end in ends):
            self._store.places_until_s = until_s
        return [*(first[2] or ()), *(first[3] or ())]

    def _names(self, kind: str) -> Sequence[str]:
        """Return the queues that a statement for one or few queues is to ask; where all are known, sorted by name."""
        if kind in (KNOWN, ALONE, LINES, FEW, LIMITED):
            return self._some or sorted(set(self._queues)) or self._store.lines.names
        return ()

    def _still(self) -> Dict[str, float]:
        """Return, by queue, until when claims go on from the last one's place; nothing if the caller gave the time."""
        if self._now is not None:
            return {}
        now_s = time.monotonic()
        return {name: until_s for name, until_s in self._store.places_until_s.items() if until_s > now_s}

    def _settle(self, fresh: List[Claim], asked: int, names: Sequence[str], until_s: Dict[str, float]) -> None:
        """Note the places of the new claims; if there were too few from the last place on, start at the head again."""
        if len(fresh) < asked and any(name in until_s for name in names):
            self._more = True
        elif self._now is None:
            for claim in fresh:
                job = claim.job
                self._store.places[job.queue] = Place(job.priority, job.run_at, job.seq)
            later_s = time.monotonic() + AHEAD_S * (os.urandom(1)[0] + 1) / 256
            looked_at = {*names, *(claim.job.queue for claim in fresh)} & self._store.places.keys()
            until_s = self._store.places_until_s = {**dict.fromkeys(looked_at, later_s), **until_s}
            # Drop places that are out of date: there may be a queue for each of 100,000 customers.
            self._store.places = {name: place for name, place in self._store.places.items() if name in until_s}

    def _take(self, kind: str, names: Sequence[str], asked: int, rows: List[Any]) -> List[Claim]:
        """Take the claims from an answer and return them; note whether another statement may claim more."""
        due, others, limited, looked, seen = rows[0][4:9]
        fresh = []
        for row in rows:
            if row[FIRST_OF_JOB] is not None:
                job = Job._make(row[FIRST_OF_JOB:])
                fresh.append(Claim(job, job.run_id or 0, job.updated_at))
        self.claims += fresh
        self._due = due
        if limited:
            self._limited = True
            self._crowded = kind == LINES
            if kind in (KNOWN, ALONE):
                self._store.bounded_until_s[names[0]] = time.monotonic() + LINES_S
        full = len(fresh) == asked
        if others:
            self._store.lines = NO_LINES
        elif kind == MANY and not due:
            self._store.many = len(seen or ()) > MOST_LINES
            known = (fresh or limited) and not self._store.many
            self._store.lines = Lines(seen, time.monotonic() + LINES_S) if known else NO_LINES
        if kind in (FEW, MANY) and not full and looked >= asked + self._slack and self._slack < MOST_SLACK:
            self._slack *= 8  # others hold too many of the jobs considered: consider more
            full = True
        self._more = due or others or (limited and kind != LIMITED) or full
        return fresh


def _where(kind: str, names: Sequence[str], places: Dict[str, Place]) -> Dict[str, Any]:
    """Return the parameters that say which queues to claim from, and from which place on in each."""
    found = [places.get(name, _NOWHERE) for name in names]
    if kind != LINES:
        place = found[0] if found else _NOWHERE
        return {
            "queue": names[0] if names else None, "after_priority": place[0], "after_run_at": place[1],
            "after_seq": place[2],
        }  # fmt: skip
    priorities, run_ats, seqs = (_array(some) for some in zip(*found))
    return {"queue": list(names), "after_priority": priorities, "after_run_at": run_ats, "after_seq": seqs}


def _array(numbers: Iterable[Optional[float]]) -> str:
    """Return the text of an SQL array of numbers: psycopg takes 7 us to adapt a list."""
    return "{" + ",".join("NULL" if number is None else repr(number) for number in numbers) + "}"


def _rooms(run: Run, limits: Dict[str, Optional[int]]) -> Dict[str, Optional[int]]:
    """Return how many more jobs of each queue may run (None: any number), leaving out queues that are full."""
    names = [name for name, limit in limits.items() if limit is not None]
    running = dict(run(texts.RUNNING, {"names": names}).fetchall()) if names else {}
    rooms = {name: None if limit is None else limit - running.get(name, 0) for name, limit in limits.items()}
    return {name: room for name, room in rooms.items() if room is None or room > 0}


def _parts(outputs: Sequence[OutputWrite]) -> Dict[Tuple[int, int], bytes]:
    """Return the parts to insert for several writes, by (run id, offset), after these have deleted each other's."""
    parts: Dict[Tuple[int, int], bytes] = {}
    for run_id, pieces, gone in outputs:
        # The parts of a flush that failed are sent again with the write that deletes them, and are not stored yet.
        if gone is not None and parts:
            for key in [key for key in parts if key[0] == run_id and gone[0] <= key[1] < gone[1]]:
                del parts[key]
        parts.update({(run_id, start): data for start, data in pieces})
    return parts


def sendable(ended: Sequence[Ended]) -> List[Dict[str, Any]]:
    """Return ends as the statement reads them; of several for one run, only the first."""
    ends = []
    seen = set()
    for place, ((job, run_id, started_at), end, verdict) in enumerate(ended):
        if run_id in seen:
            continue
        seen.add(run_id)
        state = verdict.state.value
        one: Dict[str, Any] = {
            "ord": place, "seq": job.seq, "run_id": run_id, "state": state, "run_at": verdict.run_at,
            "waits": state in ("failed", "pending"), "reason": verdict.reason and plain(verdict.reason),
            "failed": int(end.outcome in (Outcome.FAILED, Outcome.TIMED_OUT)), "outcome": end.outcome.value,
            "exit_code": end.exit_code, "signal": end.signal, "ended_at": end.ended_at,
            "memory": end.peak_memory_bytes, "cpu_s": end.cpu_s, "why": end.reason and plain(end.reason),
            # Only needed for a run that was claimed ahead, and so started later than it was claimed.
            "started_at": None if started_at == job.updated_at else started_at,
        }  # fmt: skip
        ends.append(one)
    return ends


def stray(place: int, seq: int, run_id: int, now: float) -> Dict[str, Any]:
    """Return the end of a run unknown to its worker: the answer to its claim, or (by a failover) its end, was lost."""
    return {
        "ord": place, "seq": seq, "run_id": run_id, "state": "pending", "run_at": None, "waits": True, "reason": None,
        "failed": 0, "outcome": "stopped", "ended_at": now, "why": "the answer to its claim, or its end, was lost",
    }  # fmt: skip


def come_back(ended: Sequence[Ended], soon_at: float) -> bool:
    """Return whether one of the ended jobs may be due again by *soon_at*.

    Then one statement, with its one snapshot, cannot both end and claim it.
    """
    return any(
        verdict.state.value in ("failed", "pending") and (verdict.run_at is None or verdict.run_at <= soon_at)
        for _, _, verdict in ended
    )
