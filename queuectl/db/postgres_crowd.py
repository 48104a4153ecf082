"""What a worker knows of many queues on PostgreSQL, so that a claim need only ask a few of them (see ``heads``)."""

from __future__ import annotations

import time

from queuectl.db.heads import MOST, Heads
from queuectl.db.rules import FEW_QUEUES, MOST_NEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Sequence, Set

    from queuectl.job import Claim

    Look = Callable[..., List[Any]]

# A claim of several jobs asks for this many at once, from as many queues, at most.
BATCH = 32
# This many queues are looked at once more after the first ones turned out to be less urgent than they were.
_AGAIN = 64


class Crowd:
    """The queues that a worker serves, as they were at one look, updated by what was learnt since.

    ``many`` says whether there are so many queues that this pays.
    """

    def __init__(self, look: Look, queues: Sequence[str]) -> None:
        """Look at all of *queues* (empty: all queues of the store); *look* runs a reading statement."""
        begun_s = time.monotonic()
        self._look = look
        self._queues = tuple(queues)
        rows = look(_HEADS_OF if queues else _HEADS, {"queues": list(queues), "most": MOST + 1})
        self._newest_seq = self._seen_seq = rows[0][0]
        self._unsure: Set[str] = set()  # queues whose most urgent job is not known since the last claim
        #: The priority that jobs outside of the queues from ``first`` may have; None: claim whatever those queues have.
        self.least: Optional[int] = None
        self._most = FEW_QUEUES  # how many queues to ask: more while other workers claim from the same ones
        heads = [row[1:] for row in rows if row[1] is not None]
        self.many = len(heads) > FEW_QUEUES
        self._heads = Heads(
            ((name, (-priority, run_at, seq)) for name, priority, run_at, seq in heads[:MOST]),
            begun_s,
            more=len(heads) > MOST,
        )
        self._sure = {name for name, _, _, _ in heads}  # queues that were looked at since the last claim

    def serves(self, queues: Sequence[str]) -> bool:
        """Return whether this is about these queues and fresh enough to rely on; first, note what is new."""
        if self._queues != tuple(queues) or not self._heads.fresh():
            return False
        if self._unsure:
            rows = self._look(_HEADS_OF, {"queues": list(self._unsure), "most": len(self._unsure)})
            heads = {name: (-priority, run_at, seq) for _, name, priority, run_at, seq in rows if name is not None}
            for name in self._unsure:
                self._heads.set(name, heads.get(name))
            self._sure |= self._unsure
            self._unsure = set()
        if self._seen_seq > self._newest_seq:
            new = self._look(_NEW, {"after": self._newest_seq, "most": MOST_NEW})
            for row in new:
                self.found(*row)
            self._newest_seq = self._seen_seq
            return len(new) < MOST_NEW
        return True

    def found(self, queue: str, priority: int, run_at: float, seq: int) -> None:
        """Note a job that may be claimed now."""
        if not self._queues or queue in self._queues:
            self._heads.found(queue, (-priority, run_at, seq))

    def first(self, count: int) -> List[str]:
        """Return the queues to claim up to *count* jobs from, the most urgent first; set ``least``."""
        most = max(self._most, min(count, BATCH))
        names = self._heads.first(most)
        behind = None if self._sure.issuperset(names) else self._heads.behind(most)
        self.least = None if behind is None else -behind[0]
        return names

    def answered(
        self, names: Sequence[str], claims: Sequence[Claim], asked: int, seen: Optional[Sequence[float]]
    ) -> None:
        """Note the result of a claim of *asked* jobs from the queues *names*, made with ``least``.

        For a claim of one job, *seen* has the number of the newest job and, if the queue of the claimed job has a next
        one, its priority, ``run_at`` and ``seq``. Without *seen*, these queues are looked at before the next claim.
        """
        if len(claims) < asked and self.least is not None:
            self._unsure.update(names, self._heads.first(_AGAIN))
            self._most = min(2 * self._most, BATCH)
        elif len(claims) < asked:
            for name in names:
                self._heads.set(name, None)
        elif seen is None:
            self._unsure.update(names)
        else:
            job = claims[-1].job
            self._heads.not_before(names, (-job.priority, job.run_at, job.seq))
            self._heads.set(job.queue, (-int(seen[1]), seen[2], int(seen[3])) if len(seen) > 1 else None)
        if claims:
            self._sure = set()
            self._most = max(self._most - 1, FEW_QUEUES)
        if seen is not None:
            self._seen_seq = max(self._seen_seq, int(seen[0]))


_NEWEST = "(SELECT coalesce(max(seq), 0) FROM queuectl.jobs)"

# Goes from the head of one queue to the head of the next through the claim's index. The answer always has a row.
_HEADS = f"""
    WITH RECURSIVE head(queue, priority, run_at, seq) AS (
        (SELECT queue, priority, run_at, seq FROM queuectl.jobs
          WHERE ready = 1 ORDER BY queue, priority DESC, run_at, seq LIMIT 1)
        UNION ALL
        SELECT next.*
          FROM head
         CROSS JOIN LATERAL (
               SELECT queue, priority, run_at, seq FROM queuectl.jobs
                WHERE ready = 1 AND queue > head.queue
                ORDER BY queue, priority DESC, run_at, seq LIMIT 1) AS next)
    SELECT {_NEWEST}, head.*
      FROM (VALUES (1)) AS one
      LEFT JOIN head ON NOT EXISTS (SELECT 1 FROM queuectl.queues AS q WHERE q.name = head.queue AND q.paused)
     ORDER BY priority DESC, run_at, seq
     LIMIT %(most)s
    """
_HEADS_OF = f"""
    SELECT {_NEWEST}, head.*
      FROM (VALUES (1)) AS one
      LEFT JOIN (
           SELECT j.queue, j.priority, j.run_at, j.seq
             FROM unnest(%(queues)s::text[]) AS n (name)
             JOIN queuectl.queues AS q ON q.name = n.name AND NOT q.paused
            CROSS JOIN LATERAL (
                  SELECT queue, priority, run_at, seq FROM queuectl.jobs
                   WHERE ready = 1 AND queue = n.name
                   ORDER BY priority DESC, run_at, seq LIMIT 1) AS j) AS head ON true
     ORDER BY priority DESC, run_at, seq
     LIMIT %(most)s
    """

_NEW = """
    SELECT queue, priority, run_at, seq
      FROM queuectl.jobs
     WHERE seq > %(after)s AND ready = 1
     ORDER BY seq
     LIMIT %(most)s
    """
