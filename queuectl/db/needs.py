"""Jobs that wait until others have completed: the rules that are the same in every engine.

A job that waits for others is *held*: it is pending, its ``run_at`` in the store is HELD_AT, which never comes, and its
own is kept in ``not_before``. What it still waits for are rows of the table ``needs``. When the needed job completes, a
trigger takes its rows away, in the same transaction, and with the last one lets the held job go.
"""

from __future__ import annotations

from queuectl.db.rules import HELD_AT
from queuectl.errors import InvalidJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence

    from queuectl.db.spool import Specs

# So many ids are looked for at once.
LOOK = 500


def still_needed(
    specs: Specs, ids: Sequence[str], states: Callable[[Sequence[str]], Mapping[str, str]]
) -> Dict[int, List[str]]:
    """Return, for each job that names others in ``after``, which of them have not completed, by its place in *specs*.

    Args:
        specs: The new jobs. One may wait for another that comes before it, by an id that it was given.
        ids: Their ids.
        states: Returns the states of those of some jobs that exist, by id.

    Raises:
        InvalidJob: There is no such job.
    """
    found: Dict[int, List[str]] = {}
    known: Dict[str, str] = {}
    names = list(dict.fromkeys(name for spec in specs for name in spec.after or ()))
    for first in range(0, len(names), LOOK):
        known.update(states(names[first : first + LOOK]))
    for place, (spec, job_id) in enumerate(zip(specs, ids)):
        if spec.after:
            found[place] = open_needs(spec.after, known, place)
        if spec.id is not None:
            known[job_id] = "pending"
    return found


def open_needs(after: Iterable[str], states: Mapping[str, str], place: int = 0) -> List[str]:
    """Return those of *after*, of the job at *place* of new ones, that have not completed by their *states*.

    Raises:
        InvalidJob: One has no state: there is no such job.
    """
    needed = []
    for name in after:
        if name not in states:
            raise InvalidJob(f"job field 'after' names {name}, but there is no such job.{_hint(name)}", place)
        if states[name] != "completed":
            needed.append(name)
    return needed


def _hint(name: str) -> str:
    from queuectl.clock import parse_duration

    if name.isdigit():
        return f" The ids of jobs are such as job{name}."
    try:
        parse_duration(name)
    except ValueError:
        return ""
    return " To wait for a time, give 'delay' or 'run_at'."


def waiting_columns(run_at: float, held: bool, now: float) -> Dict[str, Any]:
    """Return the columns of a job that waits for its *run_at*, and if it is *held* for other jobs as well."""
    if held:
        return {"run_at": HELD_AT, "ready": 2, "not_before": run_at}
    return {"run_at": run_at, "ready": 1 if run_at <= now else 2, "not_before": None}


def edited_needs(
    columns: Dict[str, Any], run_at: float, not_before: Optional[float], held: bool, now: float
) -> Dict[str, Any]:
    """Return *columns*, to which an edit sets a job that waits, as they have to be where it is or was held.

    Args:
        columns: As ``rules.edited_columns`` returns them.
        run_at: As the store has it.
        not_before: As the store has it; None: it was not held.
        held: Whether it has to be held from now on.
        now: The time by the store's clock.
    """
    if not held and not_before is None:
        return columns
    usual = run_at if not_before is None else not_before
    wanted = columns.get("run_at", usual)
    return {**columns, **waiting_columns(wanted if held else max(wanted, now), held, now)}


def refuse_circle(job_id: str) -> InvalidJob:
    """Return the error for a job that would wait for itself."""
    return InvalidJob(f"{job_id} would wait for itself: a job that it is to run after waits for {job_id}.")
