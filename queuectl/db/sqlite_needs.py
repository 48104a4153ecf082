"""Jobs of a SQLite store that wait until others have completed; see ``needs``.

Every function works in the transaction that its caller holds open.
"""

from __future__ import annotations

from queuectl.db.needs import edited_needs, open_needs, refuse_circle, still_needed
from queuectl.db.rules import HELD_AT, to_json
from queuectl.db.sqlite_views import in_parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

    from queuectl.db.spool import Specs


# Where in a row of ``sqlite_add`` a job's run_at and its readiness stand.
_RUN_AT, _READY = 4, 5


def add_with_needs(
    db: sqlite3.Connection, add: str, specs: Specs, ids: Sequence[str], rows: Iterable[Tuple[Any, ...]]
) -> None:
    """Store new jobs, some of which wait for those that they name in ``after``.

    Args:
        db: The connection.
        add: The statement that takes *rows*.
        specs: The jobs.
        ids: Their ids.
        rows: Their rows, as of jobs that wait for nothing.

    Raises:
        InvalidJob: There is no such job.
    """
    seqs: Dict[str, int] = {}
    needed = still_needed(specs, ids, lambda names: _states(db, names, seqs))
    pairs: List[Tuple[int, int]] = []
    with_needs = add.replace("updated_at)", "updated_at, after, not_before)").rstrip()[:-1] + ", ?, ?)"
    db.executemany(with_needs, _held_rows(rows, specs, needed, seqs, pairs))
    db.executemany("INSERT INTO needs (on_seq, seq) VALUES (?, ?)", pairs)


def _held_rows(
    rows: Iterable[Tuple[Any, ...]],
    specs: Specs,
    needed: Mapping[int, List[str]],
    seqs: Dict[str, int],
    pairs: List[Tuple[int, int]],
) -> Iterator[Sequence[Any]]:
    """Yield *rows* with ``after`` and ``not_before``, and with HELD_AT where something is needed; fill *pairs*.

    *seqs* has the rows of the jobs that were there before.
    """
    for place, (row, spec) in enumerate(zip(rows, specs)):
        fields: List[Any] = [*row, to_json(spec.after), None]
        names = needed.get(place)
        if names:
            fields[-1], fields[_RUN_AT], fields[_READY] = row[_RUN_AT], HELD_AT, 2
            pairs += [(seqs[name], row[0]) for name in names]
        if spec.id is not None:
            seqs[spec.id] = row[0]
        yield fields


def edit_needs(
    db: sqlite3.Connection, job_id: str, changes: Mapping[str, Any], columns: Dict[str, Any], now: float
) -> Dict[str, Any]:
    """Return *columns*, to which *changes* set a waiting job, as they have to be if it is held; change what it needs.

    Raises:
        InvalidJob: There is no job that it is to wait for, or that one waits for this one.
    """
    seq, run_at, not_before = db.execute("SELECT seq, run_at, not_before FROM jobs WHERE id = ?", (job_id,)).fetchone()
    held = not_before is not None
    if "after" in changes:
        after = changes["after"] or []
        seqs: Dict[str, int] = {}
        open_ones = open_needs(after, _states(db, after, seqs))
        db.execute("DELETE FROM needs WHERE seq = ?", (seq,))
        pairs = [(seqs[name], seq) for name in open_ones]
        db.executemany("INSERT INTO needs (on_seq, seq) VALUES (?, ?)", pairs)
        if db.execute(_CIRCLE, {"seq": seq}).fetchone():
            raise refuse_circle(job_id)
        held = bool(open_ones)
    return edited_needs(columns, run_at, not_before, held, now)


def _states(db: sqlite3.Connection, job_ids: Sequence[str], seqs: Dict[str, int]) -> Dict[str, str]:
    """Return the states of those of these jobs that exist, and put their rows into *seqs*, both by id."""
    states = {}
    for job_id in job_ids:  # what is read is no plain column: see sqlite_within
        row = db.execute("SELECT +state, +seq FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is not None:
            states[job_id], seqs[job_id] = row
    return states


_CIRCLE = """
    WITH RECURSIVE needed(seq) AS (
        SELECT on_seq FROM needs WHERE seq = :seq
        UNION
        SELECT n.on_seq FROM needed JOIN needs AS n ON n.seq = needed.seq)
    SELECT 1 FROM needed WHERE seq = :seq
    """

NEEDS = """
    SELECT needed.id, needed.state
      FROM needs
      LEFT JOIN jobs AS needed ON needed.seq = needs.on_seq
     WHERE needs.seq = (SELECT seq FROM jobs WHERE id = :id AND ready = 2)
     ORDER BY needed.seq IS NULL, needed.seq
    """

NEEDED_BY = """
    SELECT waiting.id
      FROM needs
      JOIN jobs AS waiting ON waiting.seq = needs.seq
     WHERE needs.on_seq = (SELECT seq FROM jobs WHERE id = :id) AND waiting.ready = 2
     ORDER BY waiting.seq
     LIMIT :limit
    """

# All that these jobs need, and what that needs in turn; of it what has ended, or was deleted.
_STUCK = """
    WITH RECURSIVE line(id, seq) AS (
        SELECT jobs.id, needs.on_seq
          FROM jobs JOIN needs ON needs.seq = jobs.seq
         WHERE jobs.ready = 2 AND jobs.id IN ({})
        UNION
        SELECT line.id, needs.on_seq FROM line JOIN needs ON needs.seq = line.seq)
    SELECT line.id, jobs.id, jobs.state
      FROM line
      LEFT JOIN jobs ON jobs.seq = line.seq
     WHERE jobs.seq IS NULL OR jobs.state = 'dead' OR jobs.state = 'cancelled'
     ORDER BY jobs.seq IS NOT NULL, jobs.seq DESC
    """


def stuck(
    rows: Callable[[str, Sequence[Any]], List[Any]], job_ids: Sequence[str]
) -> Dict[str, Tuple[Optional[str], Optional[str]]]:
    """See ``Store.stuck``; *rows* runs a statement."""
    found: Dict[str, Tuple[Optional[str], Optional[str]]] = {}
    if rows("SELECT 1 FROM needs LIMIT 1", ()):
        for some in in_parts(job_ids):
            found.update((row[0], (row[1], row[2])) for row in rows(_STUCK.format(", ".join("?" * len(some))), some))
    return found
