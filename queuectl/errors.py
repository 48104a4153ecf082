"""Every error that queuectl raises on purpose, and the exit code each one ends with.

A message is one sentence or two: what went wrong, with which value, and what to do
next. Libraries raise; only ``main`` prints.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Sequence, Tuple, Type


class QueuectlError(Exception):
    """Base of the family: something could not be done; the command exits with 1."""

    exit_code = 1

    def __reduce__(self) -> Any:
        """Pickle the error as it is: by default ``__init__``, which wants the parts, would be given the sentence."""
        return _arrived, (type(self), self.args, self.__dict__)


class UsageError(QueuectlError):
    """The command line itself is wrong (unknown command, missing value); exit code 2."""

    exit_code = 2


class InvalidJob(QueuectlError):
    """A job's description was refused; nothing was stored and no id was used up.

    *place* says which of many jobs it is, from 0, if only the store could refuse it.
    """

    def __init__(self, message: str, place: Optional[int] = None) -> None:
        super().__init__(message)
        self.place = place


class InvalidSetting(QueuectlError):
    """A setting's key or value was refused; the setting is as it was."""


class JobExists(QueuectlError):
    """The id that a caller gave is taken, or was used by an earlier job; *where* says which of many jobs has it."""

    TWICE = "is given twice"

    def __init__(self, job_id: str, why: str = "is taken", where: str = "") -> None:
        super().__init__(f"{where}the id {job_id} {why}. Give another id, or none to get the next one.")
        self.job_id = job_id
        self.why = why

    def index(self, ids: Sequence[Optional[str]]) -> int:
        """Return which of the jobs that were given *ids* (None: the next one) is refused, from 0."""
        first = ids.index(self.job_id)
        return ids.index(self.job_id, first + 1) if self.why == self.TWICE else first


class JobNotFound(QueuectlError):
    """No job has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job not found: {_named(job_id)}. 'queuectl list' shows the ids.")
        self.job_id = job_id


class NotInDlq(QueuectlError):
    """A DLQ command named a job that is not dead, or does not exist."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job not found in DLQ: {_named(job_id)}.")
        self.job_id = job_id


class WrongState(QueuectlError):
    """The job exists, but its state does not allow the operation."""

    def __init__(self, job_id: str, verb: str, state: str, allowed: Sequence[str]) -> None:
        choices = ", ".join(allowed[:-1]) + " or " + allowed[-1] if len(allowed) > 1 else allowed[0]
        is_over = verb == "edit" and state in ("completed", "dead", "cancelled")
        advice = f" Start it over first: queuectl retry {job_id}" if is_over else ""
        super().__init__(f"cannot {verb} {job_id}: it is {state}, not {choices}.{advice}")
        self.job_id = job_id
        self.state = state


class StoreError(QueuectlError):
    """The store cannot be used."""


class StoreUnavailable(StoreError):
    """The store cannot be reached now (busy, disk full, I/O error); trying again may help."""


class NotDurable(StoreUnavailable):
    """A change was made, and everybody sees it, but the disk failed to take it: do not make it again."""

    def __init__(self, trouble: str, ids: Sequence[str] = ()) -> None:
        super().__init__(
            f"{trouble} The store has {_jobs_named(ids)} all the same, but a power cut may still lose it. "
            "Do not repeat this; check the disk."
        )
        self.trouble = trouble


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C that came too late to undo something; it says what stands all the same, lest somebody repeats it."""

    @classmethod
    def behind(cls, ids: Sequence[str]) -> Interrupted:
        """Return the interrupt that came when the jobs with these *ids* had been stored."""
        return cls(f"The store has {_jobs_named(ids)} all the same.")


class StoreRefused(StoreError):
    """What lies at the store's path is not ours, damaged, replaced or newer; it was left untouched."""


class MissingExtra(QueuectlError):
    """A feature needs a package that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs {package}: pip install 'queuectl[{extra}]'")


class QueueInUse(QueuectlError):
    """A signal's handler called a ``Queue`` in the middle of another call, which it had interrupted.

    Neither could go on: a transaction is half done, or the driver waits for an answer. Nor can the inner call wait.
    """

    def __init__(self) -> None:
        super().__init__(
            "this Queue is in the middle of another call, which a signal's handler or the like has interrupted. "
            "Nothing was changed. Let the handler set a flag, and call the Queue later."
        )


class Unwritten(QueuectlError):
    """Standard output could not be written; *done* says what stands all the same."""

    def __init__(self, error: OSError, done: str) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror or error}. {done}".rstrip())


class Refused(QueuectlError):
    """The user said no, or a precondition that the user can change does not hold."""


def _jobs_named(ids: Sequence[str]) -> str:
    return "the change" if not ids else ids[0] if len(ids) == 1 else f"{len(ids)} jobs ({ids[0]} .. {ids[-1]})"


def _named(job_id: object) -> str:
    """Return an id for the message that no job has it: it may be anything, even text that cannot be printed."""
    printable = isinstance(job_id, str) and 0 < len(job_id) <= 200 and job_id.isprintable()
    return str(job_id) if printable else shown(job_id)


def _arrived(kind: Type[QueuectlError], arguments: Tuple[object, ...], attributes: Dict[str, object]) -> QueuectlError:
    """Return an error from another process."""
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


def is_without_reader(error: BaseException) -> bool:
    """Say whether *error* means that nobody reads a pipe any more: for a command that is no trouble to speak of."""
    if isinstance(error, BrokenPipeError):
        return True
    # Windows calls a pipe without a reader "invalid argument", and a path that can be none; only that has a name.
    return os.name == "nt" and isinstance(error, OSError) and error.errno == 22 and error.filename is None


def why(error: OSError, starting: bool = False) -> str:
    """Return why the system refused something, with the limit that was met: the error's own text names none.

    Args:
        error: What the system said.
        starting: Whether a process was to be started, for which "try again" means that there are too many.
    """
    text = error.strerror or str(error)
    if error.errno == errno.ENOSPC and _has_no_inode(error.filename):
        text += " (no inode is left for another file)"
    elif error.errno == errno.EMFILE:
        text += _limit("SC_OPEN_MAX", " (ulimit -n is {})")
    elif error.errno == errno.EAGAIN and starting:
        mine = _limit("SC_CHILD_MAX", " (ulimit -u is {})")
        text += f": too many processes of this user{mine}, in its control group (pids.max) or on the machine"
    return text


def _has_no_inode(path: Any) -> bool:
    """Return whether the disk of *path* takes no further file, however many bytes it has left."""
    if sys.platform == "win32" or not isinstance(path, (str, bytes)):
        return False
    try:
        disk = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return False
    return bool(disk.f_files and disk.f_favail == 0)


def _limit(name: str, text: str) -> str:
    """Return *text* with a limit of this process; nothing where there is none.

    Not by the module resource, which is a file: at the limit it cannot be opened.
    """
    if sys.platform == "win32":  # which has none
        return ""
    try:
        limit = os.sysconf(name)
    except (ValueError, OSError):
        return ""
    return text.format(limit) if limit >= 0 else ""


def shown(value: Any) -> str:
    """Return *value* short and on one line, for a message."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, a very deep list
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
