"""A job as a caller describes it: every field checked before anything is stored.

This module is on the path of each ``queuectl enqueue``, so it imports next to nothing.
"""

from __future__ import annotations

import os

from queuectl import clock
from queuectl.config import MAX_COMMAND_BYTES, MAX_INT
from queuectl.errors import InvalidJob, JobNotFound, QueuectlError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

MAX_ENV_BYTES = 128 * 1024
MAX_ID_LENGTH = 128
MAX_TAGS = 100
MAX_AFTER = 1000
DEFAULT_QUEUE = "default"

FIELDS = (
    "command", "id", "queue", "priority", "max_retries", "backoff_base",
    "timeout", "run_at", "delay", "cwd", "env", "tags", "after",
)  # fmt: skip
# What other tools, and this one's options, call them.
MEANT = {
    "cmd": "command", "shell": "command", "name": "id", "job_id": "id", "retries": "max_retries",
    "tries": "max_retries", "max_attempts": "max_retries", "dir": "cwd", "directory": "cwd", "workdir": "cwd",
    "environment": "env", "at": "run_at", "when": "run_at", "eta": "run_at", "scheduled_at": "run_at",
    "label": "tags", "depends_on": "after", "dependencies": "after", "needs": "after",
}  # fmt: skip
STATE_FIELDS = (
    "state", "attempts", "failures", "losses", "created_at", "updated_at", "ended_at",
    "worker_id", "worker", "run_id", "seq", "reason", "cancel_requested", "runs", "held",
)  # fmt: skip
NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
NAME_RULE = "1-128 of A-Z a-z 0-9 . _ -, not starting with - or ."


class JobSpec:
    """A checked description of a job to be: what ``Store.add`` takes."""

    __slots__ = (
        "after", "backoff_base", "command", "cwd", "delay_s", "env", "id", "max_retries",
        "priority", "queue", "run_at", "tags", "timeout_s",
    )  # fmt: skip

    def __init__(
        self,
        command: str,
        cwd: str,
        id: Optional[str] = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        max_retries: Optional[int] = None,
        backoff_base: Optional[float] = None,
        timeout_s: Optional[float] = None,
        run_at: Optional[float] = None,
        delay_s: Optional[float] = None,
        env: Optional[Dict[str, str]] = None,
        tags: Optional[List[str]] = None,
        after: Optional[List[str]] = None,
    ) -> None:
        self.command = command
        self.cwd = cwd
        self.id = id
        self.queue = queue
        self.priority = priority
        self.max_retries = max_retries  # None: the setting at the time of the enqueue
        self.backoff_base = backoff_base  # None: the setting when a run fails
        self.timeout_s = timeout_s  # None: the setting when a run starts
        self.run_at = run_at  # Unix seconds; None: now
        self.delay_s = delay_s  # seconds from now; not together with run_at
        self.env = env
        self.tags = tags
        self.after = after  # ids of jobs that have to complete before


def is_name(text: str) -> bool:
    """Say whether *text* may be an id, a queue's name or a tag."""
    return 0 < len(text) <= MAX_ID_LENGTH and text[0] not in "-." and NAME_CHARACTERS.issuperset(text)


def plain(text: str) -> str:
    """Return *text* as a string of Python's own kind: of an enumeration's member, psycopg would take the name."""
    return text if type(text) is str else str.__str__(text)


def check_ids(job_ids: Iterable[Any], missing: Callable[[str], QueuectlError] = JobNotFound) -> List[str]:
    """Return ids of jobs as a store may look for them.

    Raises:
        JobNotFound: One can be no job's, being no name; or what *missing* makes of it.
        QueuectlError: One is no text.
    """
    checked = []
    for job_id in job_ids:
        if not isinstance(job_id, str):
            raise QueuectlError(f"a job's id must be a string such as 'job1', not {shown(job_id)}.")
        if not is_name(job_id):
            raise missing(job_id)
        checked.append(plain(job_id))
    return checked


def refuse(field: str, wanted: str, got: Any) -> InvalidJob:
    """Return the error that names the field, what it wants and what it got."""
    return InvalidJob(f"job field {field!r} must be {wanted}, not {_as_json(got)}.")


def _as_json(value: Any) -> str:
    """Return *value*, which mostly comes from JSON, as it is written there: true, and not True."""
    if isinstance(value, (bool, list, dict)) or value is None:
        import json

        try:
            text = json.dumps(value)
            return text if len(text) <= 60 else text[:57] + "..."
        except (TypeError, ValueError, RecursionError):  # from Python; or too long, or too deep
            pass
    return shown(value)


def _has(value: Any, method: str) -> bool:
    """Return whether *value* can be asked for *method*; a class, given by mistake for one of its objects, cannot."""
    return hasattr(value, method) and not isinstance(value, type)


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise refuse(field, "a string", value)
    if "\0" in value:
        raise refuse(field, "text without NUL characters", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refuse(field, "valid Unicode text (this has half a surrogate pair or invalid UTF-8)", value) from None
    return plain(value)


def _command(field: str, value: Any) -> str:
    text = _text(field, value)
    if not text.strip():
        raise refuse(field, "a command that is not blank", value)
    size = len(text.encode())
    if size > MAX_COMMAND_BYTES:
        raise InvalidJob(
            f"job field {field!r} is {size:,} bytes long, but a shell takes at most "
            f"{MAX_COMMAND_BYTES:,}. Put it into a script and enqueue that."
        )
    return text


def _name(field: str, value: Any) -> str:
    if not isinstance(value, str) or not is_name(value):
        raise refuse(field, NAME_RULE, value)
    return plain(value)


def _int(field: str, value: Any, least: int, wanted: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_INT:
        raise refuse(field, wanted, value)
    return int(value)


def _priority(field: str, value: Any) -> int:
    return _int(field, value, -MAX_INT, "a whole number within +-2147483647")


def _max_retries(field: str, value: Any) -> int:
    return _int(field, value, 0, "a whole number from 0 to 2147483647")


def _number(value: Any) -> Optional[float]:
    """Return *value* as a finite float, or None if it is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if number - number == 0 else None


def _backoff_base(field: str, value: Any) -> float:
    number = _number(value)
    if number is None or number < 1:
        raise refuse(field, "a number of at least 1", value)
    return number


def _duration(field: str, value: Any) -> float:
    if _has(value, "total_seconds"):  # a timedelta, from Python
        value = value.total_seconds()
    try:
        number = clock.parse_duration(value) if isinstance(value, str) else _number(value)
    except ValueError:
        number = None
    if number is None or not 0 <= number <= clock.LONGEST_S:
        raise refuse(field, clock.DURATION_HELP, value)
    return number


def _timeout(field: str, value: Any) -> float:
    duration_s = _duration(field, value)
    if duration_s <= 0:
        raise refuse(field, "more than 0: " + clock.DURATION_HELP, value)
    return duration_s


def _run_at(field: str, value: Any) -> float:
    if not isinstance(value, str) and not _has(value, "timestamp"):  # text, or a datetime from Python
        raise refuse(field, clock.TIME_HELP, value)
    try:
        return clock.parse_time(value)
    except ValueError:
        raise refuse(field, clock.TIME_HELP, value) from None


def _cwd(field: str, value: Any) -> str:
    from os.path import abspath, expanduser

    text = _text(field, value.__fspath__() if _has(value, "__fspath__") else value)
    if not text:
        raise refuse(field, "a directory", value)
    try:
        return abspath(expanduser(text))
    except FileNotFoundError:
        raise _nowhere("use absolute paths") from None


def current_directory(otherwise: str = "give the job a cwd") -> str:
    """Return the directory that a job runs in when nobody says otherwise.

    Raises:
        InvalidJob: It was deleted; *otherwise* is what helps besides going to another one.
    """
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise _nowhere(otherwise) from None


def usual_directory() -> Optional[str]:
    """Return where jobs run that do not say it; None if that was deleted: then each has to."""
    try:
        return current_directory()
    except InvalidJob:
        return None


def _nowhere(otherwise: str) -> InvalidJob:
    return InvalidJob(f"the current directory no longer exists. Change to another, or {otherwise}.")


def _env(field: str, value: Any) -> Dict[str, str]:
    if not isinstance(value, dict):
        raise refuse(field, 'an object of strings such as {"KEY": "value"}', value)
    total = 0
    checked = {}  # a copy: the caller may go on with the same object, for the next job
    for name, text in value.items():
        if not isinstance(name, str):  # from Python; JSON has no other names
            raise refuse(field, "an object whose names are strings", name)
        key = _text(field, name)
        if not name or "=" in name:
            raise refuse(field, "an object whose names are not empty and contain no '='", name)
        if name.upper().startswith("QUEUECTL_RUN_ID") or name.upper() == "QUEUECTL_STORE_ID":
            raise InvalidJob(f"job field {field!r} must not set {shown(name)}: queuectl sets it for each run.")
        if not isinstance(text, str):
            raise refuse(field, f"an object of strings ({shown(name)} is not one)", text)
        checked[key] = _text(field, text)
        total += len(name.encode()) + len(text.encode()) + 2
    if total > MAX_ENV_BYTES:
        raise InvalidJob(f"job field {field!r} is {total:,} bytes in all, but may be at most {MAX_ENV_BYTES:,}.")
    return checked


def _tags(field: str, value: Any) -> List[str]:
    if not isinstance(value, (list, tuple)):
        raise refuse(field, 'a list of strings such as ["nightly"]', value)
    if len(value) > MAX_TAGS:
        raise InvalidJob(f"job field {field!r} has {len(value)} tags, but may have at most {MAX_TAGS}.")
    for tag in value:
        if not isinstance(tag, str) or not is_name(tag):
            raise refuse(field, f"a list of tags, each {NAME_RULE}", tag)
    return list(dict.fromkeys(map(plain, value)))


def _after(field: str, value: Any) -> List[str]:
    """Check the ids of the jobs that have to complete before; from Python, a ``Job`` may stand for its id."""
    several: List[Any] = list(value) if isinstance(value, (list, tuple)) and not _has(value, "id") else [value]
    if len(several) > MAX_AFTER:
        raise InvalidJob(f"job field {field!r} names {len(several):,} jobs, but may name at most {MAX_AFTER:,}.")
    names = [each.id if _has(each, "id") else each for each in several]
    for name in names:
        if not isinstance(name, str) or not is_name(name):
            raise refuse(field, 'the id of a job, or a list of them such as ["job1", "job2"]', name)
    return list(dict.fromkeys(map(plain, names)))


# A field's check, and the attribute of JobSpec that holds the result.
_CHECKS = {
    "command": (_command, "command"),
    "id": (_name, "id"),
    "queue": (_name, "queue"),
    "priority": (_priority, "priority"),
    "max_retries": (_max_retries, "max_retries"),
    "backoff_base": (_backoff_base, "backoff_base"),
    "timeout": (_timeout, "timeout_s"),
    "run_at": (_run_at, "run_at"),
    "delay": (_duration, "delay_s"),
    "cwd": (_cwd, "cwd"),
    "env": (_env, "env"),
    "tags": (_tags, "tags"),
    "after": (_after, "after"),
}

# Fields for which null means "as if it were not given".
_NULLABLE = frozenset(FIELDS) - {"command"}


def field_name(name: str) -> str:
    """Return the field that *name* means: hyphens are underscores.

    Raises:
        InvalidJob: There is no such field, or only queuectl itself may set it.
    """
    if not isinstance(name, str):  # a mapping from Python; JSON has no other names
        raise InvalidJob(f"a job field's name must be a string, not {shown(name)}.")
    key = name.replace("-", "_")
    if key in _CHECKS:
        return key
    if key in STATE_FIELDS:
        raise InvalidJob(f"job field {shown(name)} is set by queuectl itself. Leave it out.")
    from difflib import get_close_matches

    word = key.lower()[:40]
    near = [MEANT[word]] if word in MEANT else get_close_matches(word, FIELDS, 1)
    hint = f"Did you mean {near[0]!r}?" if near else "The fields are " + ", ".join(FIELDS) + "."
    raise InvalidJob(f"unknown job field {shown(name)}. {hint}")


def check_fields(fields: Mapping[str, Any]) -> Dict[str, Any]:
    """Return *fields* checked, by JobSpec attribute.

    Raises:
        InvalidJob: The message names the field, what it wants and what it got.
    """
    checked: Dict[str, Any] = {}
    for name, value in fields.items():
        field = name if name in _CHECKS else field_name(name)
        check, attribute = _CHECKS[field]
        if attribute in checked:
            raise InvalidJob(f"job field {field!r} is given twice.")
        checked[attribute] = None if value is None and field in _NULLABLE else check(field, value)
    if checked.get("run_at") is not None and checked.get("delay_s") is not None:
        raise InvalidJob("job fields 'run_at' and 'delay' are both given. Give only one of them.")
    for name, default in (("queue", DEFAULT_QUEUE), ("priority", 0)):
        if checked.get(name, default) is None:
            checked[name] = default
    return checked


def from_fields(fields: Mapping[str, Any], cwd: Optional[str] = None) -> JobSpec:
    """Return the job that *fields* describes; if they give no ``cwd``, it is *cwd*, or the current directory.

    Raises:
        InvalidJob: A field is unknown, missing or wrong.
    """
    if len(fields) == 1 and "command" in fields:  # most jobs of a large file: no more steps than these need
        return JobSpec(_command("command", fields["command"]), current_directory() if cwd is None else cwd)
    checked = check_fields(fields)
    if "command" not in checked:
        raise InvalidJob('job field \'command\' is missing. Give at least {"command": "..."}.')
    if checked.get("cwd") is None:
        checked["cwd"] = current_directory() if cwd is None else cwd
    return JobSpec(**checked)


def _no_twins(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for name, _ in pairs:
            if name not in found:
                raise InvalidJob(f"the JSON has the name {shown(name)} twice.")
            del found[name]
    return found


def fields_from_json(text: str, verb: str = "enqueue") -> Dict[str, Any]:
    """Return the fields of the job that the JSON object *text*, an argument of *verb*, describes, not yet checked.

    Raises:
        InvalidJob: *text* is no JSON object; the message says where it goes wrong.
    """
    import json

    try:
        value = json.loads(text, object_pairs_hook=_no_twins)
    except json.JSONDecodeError as error:
        what = error.msg[:-3] if error.msg.endswith(" at") else error.msg  # "Invalid control character at"
        raise InvalidJob(_json_trouble(text, f"{what} at character {error.pos + 1}", verb)) from None
    except RecursionError:
        raise InvalidJob("not a JSON object: it is nested too deeply.") from None
    except ValueError:  # since Python 3.11: an integer of more than 4300 digits
        raise InvalidJob("not a JSON object: it has a number with thousands of digits.") from None
    if not isinstance(value, dict):
        raise InvalidJob(f'a job must be a JSON object such as {{"command": "echo hi"}}, not {_as_json(value)}.')
    return value


def _json_trouble(text: str, why: str, verb: str) -> str:
    """Explain bad JSON; the usual reason is a shell that took the quotes away."""
    tidy = text.strip()
    if tidy[:1] == "{" and '"' not in tidy and ":" in tidy:
        if tidy[1:].lstrip().startswith("'"):
            return f"not a JSON object: {shown(text)}: JSON needs double quotes, not single ones."
        return (
            f"not a JSON object: {shown(text)}: the shell removed the double quotes. "
            f'Use options instead: queuectl {verb} --command "echo hi"'
        )
    if tidy[:1] not in ("{", "["):
        return (
            f"not a JSON object: {shown(text)}. For a plain command: "
            f"queuectl {verb} -- COMMAND ARG ... or queuectl {verb} --command 'COMMAND'"
        )
    return f"not a JSON object: {why}: {shown(text)}."
