"""Rules of the store that are the same in every engine: pure, and without SQL."""

from __future__ import annotations

from queuectl.errors import InvalidJob, JobExists, JobNotFound, NotInDlq, WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

    from queuectl.db.spool import Specs
    from queuectl.job import Claim, JobFilter
    from queuectl.jobspec import JobSpec

# Jobs are claimed ahead only if this many times as many wait, so that no other worker lacks work because of it.
PLENTY = 16
# If no more queues than this have jobs, each claim asks all of them for their most urgent job; for more, see ``heads``.
FEW_QUEUES = 8
# A batch of more jobs than this is spooled to a file, and its generated ids are not listed in memory. On SQLite, its
# rows are made before the write lock is taken: that takes longer in all, but others wait for less time.
HUGE_BATCH = 200_000
# The result of a look at all queues is relied on for at least this many times as long as the look took.
LOOKS = 10
# How many parts of an output are read at once, from its end backwards.
PARTS = 8
# The default of the setting ``max_retries``.
MAX_RETRIES = 3
# The states whose jobs each queue counts.
COUNTED = ("pending", "processing", "failed", "completed", "dead", "cancelled")
# Rates are computed from the runs that ended within RATE_WINDOW_S, of the newest RATE_ROWS runs.
RATE_WINDOW_S = 60.0
RATE_ROWS = 10_000
# An end that is further in the future than this is an old one: the clock was set back since.
RATE_AHEAD_S = 5.0
# At most this many rows are changed in one transaction, so that others do not wait for long.
STEP = 1000
# Up to this many new jobs are noted one by one; if there are more, all queues are looked at again.
MOST_NEW = 1000
CANCELLED_WAITING = "cancelled while it waited"
# The ``run_at`` of a job that waits for others: the year 9999, long behind any time that a caller may give.
HELD_AT = 253402214400.0
# In which states a job may be cancelled, retried, edited, pruned.
CANCELLABLE = ("pending", "processing", "failed")
RETRIABLE = ("completed", "dead", "cancelled", "failed")
EDITABLE = ("pending", "failed")
PRUNABLE = ("completed", "dead", "cancelled")
_ALLOWED = {"cancel": CANCELLABLE, "retry": RETRIABLE, "edit": EDITABLE}
# Instead of a job's (seq, queue, state), where there is no such job.
NO_JOB = (None, None, None)


class Finished:
    """The answer of ``Store.finish``: which ends were accepted, and what was claimed next."""

    __slots__ = ("accepted", "claims")

    def __init__(self, accepted: List[bool], claims: List[Claim]) -> None:
        self.accepted = accepted
        self.claims = claims


def refuse_state(verb: str, job_id: str, state: Optional[str], only_dead: bool = False) -> None:
    """Refuse to cancel, retry or edit a job whose state does not allow that; *state* None: there is no such job.

    Raises:
        JobNotFound, WrongState: It cannot be done.
        NotInDlq: With *only_dead*, the job is not dead or does not exist.
    """
    if only_dead and state != "dead":
        raise NotInDlq(job_id)
    if state is None:
        raise JobNotFound(job_id)
    if state not in _ALLOWED[verb]:
        raise WrongState(job_id, verb, state, _ALLOWED[verb])


def only_in(allowed: Sequence[str], which: JobFilter) -> Optional[JobFilter]:
    """Return *which* without the states that are not *allowed*; None if no state is left."""
    states = tuple(state for state in which.states or allowed if state in allowed)
    return which._replace(states=states) if states else None


def last_parts(look: Callable[[int], Sequence[Tuple[int, int, bytes]]], size: int) -> List[Tuple[int, bytes]]:
    """Return the last *size* bytes of an output in order, as (offset, bytes).

    Args:
        look: Returns the last PARTS parts that begin before an offset, from the last one back: where each begins, how
            long it is, and its last *size* bytes.
        size: How much is wanted.
    """
    parts: List[Tuple[int, bytes]] = []
    before = 2**62
    while size > 0:
        found = look(before)
        for before, length, data in found:
            kept = bytes(data)[-size:]
            parts.append((before + length - len(kept), kept))
            size -= len(kept)
            if size <= 0:
                break
        if len(found) < PARTS:
            break
    return parts[::-1]


def plain(text: str) -> str:
    """Return *text* as PostgreSQL and an environment can hold it: without NULs and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def generated_number(job_id: str) -> Optional[int]:
    """Return the N of an id that looks like a generated one (``jobN``), None for any other."""
    digits = job_id[3:]
    if job_id[:3] == "job" and digits.isdigit() and digits[0] != "0" and len(digits) <= 18:
        return int(digits)
    return None


class Numbered:
    """The ids ``jobN`` of many new jobs in a row, of which only the numbers are known; a sequence of text."""

    def __init__(self, first: int, count: int) -> None:
        self._numbers = range(first, first + count)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> str:
        return "job%d" % self._numbers[index]

    def __iter__(self) -> Iterator[str]:
        return ("job%d" % number for number in self._numbers)


def numbered(first: int, count: int) -> Sequence[str]:
    """Return *count* generated ids from that of the number *first* on."""
    if count <= HUGE_BATCH:
        return ["job%d" % number for number in range(first, first + count)]
    ids: Any = Numbered(first, count)
    return ids  # type: ignore[no-any-return]


def given_ids(specs: Specs) -> List[str]:
    """Return the ids that callers gave to jobs, in order; a spool knows them."""
    found: Optional[List[str]] = getattr(specs, "given", None)
    return [spec.id for spec in specs if spec.id is not None] if found is None else found


def any_after(specs: Specs) -> bool:
    """Return whether any of these jobs is to wait for others; a spool knows it."""
    found: Optional[bool] = getattr(specs, "any_after", None)
    return any(spec.after for spec in specs) if found is None else found


def possible(names: Iterable[Any]) -> List[str]:
    """Return those of *names* that could be an id, a queue or a tag; PostgreSQL fails on a NUL or another type."""
    return [name for name in names if isinstance(name, str) and name.isascii() and "\0" not in name]


def number_jobs(specs: Iterable[JobSpec], next_number: int, taken: Iterable[int]) -> Tuple[List[str], int, Set[int]]:
    """Return the ids of new jobs, the next number after them, and the taken numbers that are still ahead of it.

    Args:
        specs: The new jobs; ids that are given are kept.
        next_number: Of the next generated id.
        taken: Numbers near it that callers took by giving an id like job7, and all of those in *specs*.
    """
    ahead = set(taken)
    ids = []
    for spec in specs:
        if spec.id is not None:
            ids.append(spec.id)
            continue
        while next_number in ahead:
            next_number += 1
        ids.append("job%d" % next_number)
        next_number += 1
    while next_number in ahead:
        next_number += 1
    return ids, next_number, {number for number in ahead if number > next_number}


def taken_near(look: Callable[[int, int], Iterable[int]], next_number: int, count: int, numbers: Set[int]) -> Set[int]:
    """Return *numbers*, and the taken numbers that *count* generated ids from *next_number* on may meet.

    There may be very many that callers have taken, far ahead, and whoever enqueues is waited for.

    Args:
        look: Returns which numbers from one to another, both included, were taken.
        next_number: Of the next generated id.
        count: How many ids are to be generated.
        numbers: Those that the new jobs bring with them.
    """
    from bisect import bisect_left, bisect_right

    own = sorted(numbers)
    near = set(numbers)
    free, first, size = 0, next_number, max(count + 1, 64)
    while free <= count:  # one more than there are jobs: the next number has to be a free one too
        last = first + size - 1
        met = {*look(first, last), *own[bisect_left(own, first) : bisect_right(own, last)]}
        near |= met
        free += size - len(met)
        first, size = last + 1, 2 * size
    return near


def refuse_spent(given: Sequence[str], existing: Set[str], next_number: int, taken: Set[int]) -> None:
    """Refuse given ids that are not free.

    Args:
        given: The ids that callers gave, in their order.
        existing: Those of them that jobs have.
        next_number: Of the next generated id; all below were used.
        taken: Numbers from there on that were used by given ids.

    Raises:
        JobExists: The first id that is not free, and why.
    """
    seen = set()
    for job_id in given:
        if job_id in seen:
            raise JobExists(job_id, JobExists.TWICE)
        seen.add(job_id)
        if job_id in existing:
            raise JobExists(job_id)
        number = generated_number(job_id)
        if number is not None and (number < next_number or number in taken):
            raise JobExists(job_id, "was used by an earlier job")


def after_loss(losses: int, max_lost: int, cancel_requested: bool) -> Tuple[str, Optional[str]]:
    """Return the state and reason of a job that has now lost *losses* runs in a row."""
    if cancel_requested:
        return "cancelled", "cancelled while it ran"
    if losses >= max_lost:
        times = f"{losses} runs in a row" if losses > 1 else "a run"
        return "dead", f"lost {times}: the worker died while it ran"
    return "pending", None


def edited_columns(changes: Mapping[str, Any], now: float, default_max_retries: Callable[[], int]) -> Dict[str, Any]:
    """Return the columns of a waiting job that *changes* give new values; None is as if a field had not been given.

    Args:
        changes: JobSpec attributes with their new values.
        now: The time by the store's clock.
        default_max_retries: Looks up what a job gets that does not say how often it may be retried.
    """
    columns: Dict[str, Any] = {"updated_at": now}
    for name, value in changes.items():
        if name in ("env", "tags", "after"):
            columns[name] = to_json(value)
        elif name in ("run_at", "delay_s"):
            columns["run_at"] = _due_after_edit(changes, now)
        elif name == "max_retries" and value is None:
            columns[name] = default_max_retries()
        elif value is not None or name in ("timeout_s", "backoff_base"):
            columns[name] = value
    if "run_at" in columns:
        columns["ready"] = 1 if columns["run_at"] <= now else 2
    return columns


def refuse_spent_retries(job_id: str, max_retries: int, failures: int) -> None:
    """Refuse to allow fewer retries than a waiting job's failures have used: its next run would be one too many.

    Raises:
        InvalidJob: Nothing was changed.
    """
    if max_retries < failures:
        times = "once" if failures == 1 else f"{failures} times"
        raise InvalidJob(
            f"{job_id} has failed {times} and waits for one more run, which max_retries = {max_retries} does not "
            f"allow. Give it at least {failures}, or cancel it: queuectl cancel {job_id}"
        )


def _due_after_edit(changes: Mapping[str, Any], now: float) -> float:
    delay_s, run_at = changes.get("delay_s"), changes.get("run_at")
    if delay_s is not None:
        return float(now + delay_s)
    return now if run_at is None else float(run_at)


_encoders: List[Callable[[Any], str]] = []  # one, made at its first use: json is slow to import, an encoder to make


def to_json(value: Any) -> Optional[str]:
    """Return *value* as JSON for a column, None if it is empty."""
    if not value:
        return None
    if not _encoders:
        from json import JSONEncoder

        _encoders.append(JSONEncoder(separators=(",", ":")).encode)
    return _encoders[0](value)
