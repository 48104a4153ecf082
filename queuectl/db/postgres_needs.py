"""Jobs of a PostgreSQL store that wait until others have completed; see ``needs`` and migration 0009.

Every function works in the open transaction of a ``Run``.
"""

from __future__ import annotations

from queuectl.db.needs import edited_needs, open_needs, refuse_circle, still_needed
from queuectl.db.postgres_rows import NULL, blocks, escape
from queuectl.db.rules import HELD_AT, to_json
from queuectl.errors import InvalidJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple

    from queuectl.db.postgres_run import Run
    from queuectl.db.spool import Specs

# Where in a line of ``copy_lines`` a job's readiness and its run_at stand.
_READY, _RUN_AT = 2, 3


def copy_with_needs(run: Run, statement: str, specs: Specs, ids: Sequence[str], lines: Iterable[str]) -> None:
    """Store new jobs, some of which wait for those that they name in ``after``.

    Args:
        run: The transaction.
        statement: The COPY that takes *lines*.
        specs: The jobs.
        ids: Their ids.
        lines: Their rows, as of jobs that wait for nothing.

    Raises:
        InvalidJob: There is no such job.
    """
    needed = still_needed(specs, ids, lambda names: _states(run, names))
    with_needs = statement.replace("token)", "token, after, not_before)")
    run.copy(with_needs, blocks(_held_lines(lines, specs, needed)))
    _need(run, [(ids[place], name) for place, names in needed.items() for name in names])


def _held_lines(lines: Iterable[str], specs: Specs, needed: Mapping[int, List[str]]) -> Iterator[str]:
    """Yield *lines* with ``after`` and ``not_before`` at their ends, and with HELD_AT where something is needed."""
    for place, (line, spec) in enumerate(zip(lines, specs)):
        fields = line[:-1].split("\t")
        not_before = NULL
        if needed.get(place):
            not_before = fields[_RUN_AT]
            fields[_READY], fields[_RUN_AT] = "2", repr(HELD_AT)
        yield "\t".join([*fields, escape(to_json(spec.after)), not_before]) + "\n"


def edit_needs(
    run: Run, job_id: str, row: Sequence[Any], changes: Mapping[str, Any], columns: Dict[str, Any], now: float
) -> Dict[str, Any]:
    """Return *columns*, to which *changes* set a waiting job, as they have to be if it is held; change what it needs.

    *row* has the job's seq, run_at and not_before.

    Raises:
        InvalidJob: There is no job that it is to wait for, or that one waits for this one.
    """
    seq, run_at, not_before = row
    held = not_before is not None
    if "after" in changes:
        after = changes["after"] or []
        # Each of two edits at once might make a half of a circle.
        run("SELECT pg_advisory_xact_lock(hashtextextended(rtrim('queuectl.', '.') || '  edited needs', 0))")
        open_ones = open_needs(after, _states(run, after))
        run("DELETE FROM queuectl.needs WHERE seq = %s::bigint", (seq,))
        _need(run, [(job_id, name) for name in open_ones])
        if open_ones and run(_CIRCLE, {"seq": seq}).fetchone():
            raise refuse_circle(job_id)
        held = bool(open_ones)
    return edited_needs(columns, run_at, not_before, held, now)


def _states(run: Run, job_ids: Sequence[str]) -> Dict[str, str]:
    """Return the states of those of these jobs that exist."""
    rows = run("SELECT id, state FROM queuectl.jobs WHERE id = ANY(%s::text[])", (list(job_ids),))
    return dict(rows.fetchall())


def _need(run: Run, pairs: Sequence[Tuple[str, str]]) -> None:
    """Note for each (id, id) that the first job needs the second."""
    if pairs:
        noted = run(_NEED, {"ids": [pair[0] for pair in pairs], "needs": [pair[1] for pair in pairs]}).fetchone()[0]
        if noted != len(pairs):
            raise InvalidJob("a job that 'after' names was deleted at this moment. Try again.")


# In one order for everybody: at the commit each of the needed jobs is locked for a moment.
_NEED = """
    WITH noted AS (
        INSERT INTO queuectl.needs (on_seq, seq)
        SELECT needed.seq, waiting.seq
          FROM unnest(%(ids)s::text[], %(needs)s::text[]) AS n (id, need)
          JOIN queuectl.jobs AS needed ON needed.id = n.need
          JOIN queuectl.jobs AS waiting ON waiting.id = n.id
         ORDER BY needed.seq, waiting.seq
        RETURNING 1)
    SELECT count(*) FROM noted
    """

_CIRCLE = """
    WITH RECURSIVE needed(seq) AS (
        SELECT on_seq FROM queuectl.needs WHERE seq = %(seq)s::bigint
        UNION
        SELECT n.on_seq FROM needed JOIN queuectl.needs AS n ON n.seq = needed.seq)
    SELECT 1 FROM needed WHERE seq = %(seq)s::bigint LIMIT 1
    """

# Not by the index of what waits, which with a plan from when it was small would be read as a whole: hence the sums.
NEEDS = """
    SELECT needed.id, needed.state::text
      FROM queuectl.needs AS n
      LEFT JOIN queuectl.jobs AS needed ON needed.seq = n.on_seq
     WHERE n.seq = (SELECT seq FROM queuectl.jobs WHERE id = %(id)s::text AND ready + 0 = 2)
     ORDER BY needed.seq
    """

NEEDED_BY = """
    SELECT waiting.id
      FROM queuectl.needs AS n
      JOIN queuectl.jobs AS waiting ON waiting.seq = n.seq
     WHERE n.on_seq = (SELECT seq FROM queuectl.jobs WHERE id = %(id)s::text) AND waiting.ready + 0 = 2
     ORDER BY waiting.seq
     LIMIT %(limit)s::int
    """

# All that these jobs need, and what that needs in turn; of it what has ended, or was deleted.
STUCK = """
    WITH RECURSIVE line(id, seq) AS (
        SELECT j.id, n.on_seq
          FROM queuectl.jobs AS j JOIN queuectl.needs AS n ON n.seq = j.seq
         WHERE (SELECT true FROM queuectl.needs LIMIT 1) AND j.ready + 0 = 2 AND j.id = ANY(%(ids)s::text[])
        UNION
        SELECT line.id, n.on_seq FROM line JOIN queuectl.needs AS n ON n.seq = line.seq)
    SELECT line.id, j.id, j.state::text
      FROM line
      LEFT JOIN queuectl.jobs AS j ON j.seq = line.seq
     WHERE j.seq IS NULL OR j.state IN ('dead', 'cancelled')
     ORDER BY j.seq DESC
    """
