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
    from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

    from queuectl.db.spool import Specs


def hold(db: sqlite3.Connection, specs: Specs, ids: Sequence[str], last_seq: int) -> None:
    """Let new jobs, in the rows after *last_seq*, wait for those that they name in ``after``.

    Raises:
        InvalidJob: There is no such job.
    """
    needed = still_needed(specs, ids, lambda names: _states(db, names, last_seq))
    for seq, spec in enumerate(specs, last_seq + 1):
        if spec.after:
            open_ones = needed[seq - last_seq - 1]
            db.execute("UPDATE jobs SET after = ? WHERE seq = ?", (to_json(spec.after), seq))
            if open_ones:
                db.execute(_HOLD, (HELD_AT, seq))
                _need(db, seq, open_ones)


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
        open_ones = open_needs(after, _states(db, after))
        db.execute("DELETE FROM needs WHERE seq = ?", (seq,))
        _need(db, seq, open_ones)
        if db.execute(_CIRCLE, {"seq": seq}).fetchone():
            raise refuse_circle(job_id)
        held = bool(open_ones)
    return edited_needs(columns, run_at, not_before, held, now)


def _states(db: sqlite3.Connection, job_ids: Sequence[str], last_seq: int = 2**62) -> Dict[str, str]:
    """Return the states of those of these jobs that exist, up to a row.

    What is read is no plain column: see sqlite_within.
    """
    sql = "SELECT +state FROM jobs WHERE id = ? AND seq <= ?"
    looked = (db.execute(sql, (job_id, last_seq)).fetchone() for job_id in job_ids)
    return {job_id: row[0] for job_id, row in zip(job_ids, looked) if row is not None}


def _need(db: sqlite3.Connection, seq: int, job_ids: List[str]) -> None:
    """Note that the job in row *seq* needs these."""
    db.executemany(
        "INSERT INTO needs (on_seq, seq) SELECT seq, ? FROM jobs WHERE id = ?", [(seq, job_id) for job_id in job_ids]
    )


_HOLD = "UPDATE jobs SET not_before = run_at, run_at = ?, ready = 2 WHERE seq = ?"

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
