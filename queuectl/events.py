"""Every line that workers and supervisors say, by name."""

from __future__ import annotations

from queuectl import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from queuectl.job import Job

_SHORT_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
# Not "printable" to Python, but harmless: no-break and ideographic space, and the joiner within emoji.
_HARMLESS = "\u00a0\u3000\u200d"


def printable(text: str) -> str:
    r"""Return *text* on one line, with control, format and undecodable characters as ``\x1b``, ``\n`` ...

    A command that somebody else enqueued must not move the cursor, colour the screen, turn the text
    round or begin a line of its own.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _HARMLESS else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return _SHORT_ESCAPES.get(char) or char.encode("unicode_escape").decode("ascii")


def started(number: int, pid: int) -> str:
    """A worker is up."""
    return f"[worker {number}] pid={pid} started"


def picked(number: int, job_id: str, command: str) -> str:
    """A worker begins a run."""
    return f"[worker {number}] picked job {job_id}: {printable(command)}"


def completed(number: int, job_id: str) -> str:
    """A run completed its job."""
    return f"[worker {number}] job {job_id} completed"


def failed(number: int, job_id: str, reason: str, retry: int, retries: int, delay: str) -> str:
    """A run failed and its job will be retried."""
    return f"[worker {number}] job {job_id} failed ({printable(reason)}), retry {retry} of {retries} in {delay}"


def dead(number: int, job_id: str, reason: str, runs: int) -> str:
    """A run failed and its job went to the DLQ."""
    return f"[worker {number}] job {job_id} dead ({printable(reason)}) after {runs} {'run' if runs == 1 else 'runs'}"


def cancelled(number: int, job_id: str) -> str:
    """A run was ended because its job was cancelled."""
    return f"[worker {number}] job {job_id} cancelled"


def put_back(number: int, job_id: str, why: Optional[str] = None) -> str:
    """A run was ended by a stop, or could not begin; its job is pending again."""
    return f"[worker {number}] job {job_id} put back" + (f" ({printable(why)})" if why else "")


def refused(number: int, job_id: str) -> str:
    """The store refused a run's end: the job was taken away."""
    return f"[worker {number}] job {job_id} is no longer this worker's; its result is dropped"


def ended(number: int, job: Job, reason: Optional[str], state: str, delay_s: float) -> str:
    """The store accepted the end of a run, and *state* is the job's now; *delay_s* is that of a retry."""
    if state == "completed":
        return completed(number, job.id)
    if state == "cancelled":
        return cancelled(number, job.id)
    if state == "pending":
        return put_back(number, job.id, None if reason == "stopped" else reason)
    if state == "dead":
        return dead(number, job.id, reason or "", job.attempts)
    return failed(number, job.id, reason or "", job.failures + 1, job.max_retries, clock.format_duration(delay_s))


def lost(number: int, job_id: str, state: str) -> str:
    """A worker died while it ran a job."""
    if state == "pending":
        return f"[worker {number}] job {job_id} lost, runs again"
    return f"[worker {number}] job {job_id} lost, {state}"


def stopping(number: int, now: bool, again: bool) -> str:
    """A worker was asked to stop: *now*, at once; *again*, not for the first time."""
    what = "ending current job" if now else "will exit after current job"
    return f"[worker {number}] received stop signal{' again' if again else ''}, {what}"


def fenced(number: int) -> str:
    """A worker lost its lease."""
    return f"[worker {number}] lost its lease, ended its commands and starts over"


def trouble(number: int, what: str) -> str:
    """The store cannot be used now."""
    return f"[worker {number}] {printable(what)} Waiting."


def gave_up(number: int, runs: int, noted: bool, many_hosts: bool) -> str:
    """A worker that was to stop at once waits no longer for a store that is away."""
    what = "the result of 1 run is" if runs == 1 else f"the results of {runs} runs are"
    if not noted:
        return f"[worker {number}] gave up on the store: {what} lost"
    soon = ", if it starts before the lease is over" if many_hosts else ""
    return f"[worker {number}] gave up on the store: {what} saved here for the next worker on this host{soon}"


def left_out(lines: int) -> str:
    """There was no room for lines for a while: nobody read, or the disk was full."""
    return f"[{lines:,} {'line' if lines == 1 else 'lines'} left out: there was no room for more]"


def exiting(number: int) -> str:
    """A worker ends in order."""
    return f"[worker {number}] exiting"


def restarted(number: int, how: str, delay: str) -> str:
    """The supervisor replaces a worker that died."""
    return f"[worker {number}] died ({how}), restarts in {delay}"


def not_started(number: int, why: str, delay: str) -> str:
    """The machine has no room for a worker now; the supervisor tries again."""
    return f"[worker {number}] could not start ({printable(why)}), tries again in {delay}"


def not_looked(why: str) -> str:
    """The supervisor could not look after its workers; it tries again."""
    return f"queuectl: cannot check on the workers: {printable(why)}. Waiting."
