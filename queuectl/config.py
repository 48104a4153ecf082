"""Every setting: its name, default, check, text form and meaning.

Settings live in the store, so that all its workers share them, as the text that the user typed. A value is parsed
when it is set, to check it, and again when it is read.
"""

from __future__ import annotations

import math

from queuectl import clock
from queuectl.errors import InvalidSetting, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Optional, Union

    Value = Union[int, float, str, None]

MAX_INT = 2**31 - 1
# Linux hands no single argument over 128 KiB to a program (MAX_ARG_STRLEN, with the final NUL).
MAX_COMMAND_BYTES = 128 * 1024 - 1
SIZE_UNITS = {"": 1, "b": 1, "k": 1024, "kb": 1024, "kib": 1024, "m": 1024**2, "mb": 1024**2, "mib": 1024**2}
SIZE_UNITS.update({"g": 1024**3, "gb": 1024**3, "gib": 1024**3})


class Setting:
    """One setting. *default* is what a user would type (None: not set); *parse* turns such a text into the value."""

    __slots__ = ("default", "key", "kind", "meaning", "parse")

    def __init__(
        self, key: str, default: Optional[str], kind: str, parse: Callable[[str], Value], meaning: str
    ) -> None:
        self.key = key
        self.default = default
        self.kind = kind  # which values are allowed, for error messages and the reference
        self.parse = parse
        self.meaning = meaning


def _whole(text: str, least: int = 0) -> int:
    tidy = text.strip()
    if not (tidy.isascii() and tidy.isdigit() and len(tidy) < 12):
        raise ValueError(text)
    number = int(tidy)
    if not least <= number <= MAX_INT:
        raise ValueError(text)
    return number


def _number(text: str) -> float:
    """Return *text* as a float; NaN for what only Python takes for a number, and for absurd lengths."""
    return float(text) if len(text) < 40 and text.isascii() and "_" not in text else math.nan


def _base(text: str) -> float:
    number = _number(text)
    if not (number >= 1 and math.isfinite(number)):
        raise ValueError(text)
    return number


def _share(text: str) -> float:
    """Return the share that ``0.1`` or ``10%`` means; from 0 to 1."""
    tidy = text.strip()
    share = _number(tidy[:-1].rstrip()) / 100 if tidy.endswith("%") else _number(tidy)
    if not 0 <= share <= 1:
        raise ValueError(text)
    return share


def _lease(text: str) -> float:
    lease_s = clock.parse_duration(text)
    if lease_s < 2:
        raise ValueError(text)
    return lease_s


def _positive_duration(text: str) -> float:
    duration_s = clock.parse_duration(text)
    if duration_s <= 0:
        raise ValueError(text)
    return duration_s


def _none_or_positive_duration(text: str) -> Optional[float]:
    return None if text.strip().lower() == "none" else _positive_duration(text)


def _size(text: str) -> int:
    """Return the size in bytes that ``65536``, ``64k`` or ``1 MiB`` means; from 2 bytes to 1 GiB."""
    tidy = text.strip().lower()
    digits = len(tidy) - len(tidy.lstrip("0123456789"))
    unit = tidy[digits:].strip()
    if not digits or digits > 11 or not text.isascii() or unit not in SIZE_UNITS:
        raise ValueError(text)
    size = int(tidy[:digits]) * SIZE_UNITS[unit]
    if not 2 <= size <= 1024**3:
        raise ValueError(text)
    return size


def _command(text: str) -> Optional[str]:
    """Return the command that *text* is; None for ``none``."""
    if text.lower() == "none":
        return None
    if not text.strip() or "\0" in text or len(text.encode()) > MAX_COMMAND_BYTES:
        raise ValueError(text)
    return text


_DURATION = clock.DURATION_HELP
_MORE_THAN_0 = "more than 0: " + _DURATION
_COMMAND = f"a shell command of up to {MAX_COMMAND_BYTES:,} bytes, or none"

SETTINGS: Dict[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting("max_retries", "3", f"a whole number from 0 to {MAX_INT}", _whole,
                "retries after the first run before a job is dead; fixed when a job is enqueued"),
        Setting("backoff_base", "2", "a number of at least 1", _base,
                "the delay before a retry is this to the power of the number of failed runs, in seconds"),
        Setting("backoff_max", "3600", _DURATION, clock.parse_duration,
                "the longest delay before a retry, without jitter"),
        Setting("backoff_jitter", "0", "a share from 0 to 1 such as 0.1 or 10%", _share,
                "each delay is lengthened at random by up to this share of it"),
        Setting("timeout", None, _MORE_THAN_0 + ", or none", _none_or_positive_duration,
                "how long a run may take, unless its job has a timeout of its own"),
        Setting("kill_grace", "5", _DURATION, clock.parse_duration,
                "how long a command has to end after TERM before it gets KILL"),
        Setting("output_limit", "1 MiB", "a size such as 65536, 64k or 1 MiB, from 2 bytes to 1 GiB", _size,
                "how much of a run's output is kept: half from its start and half from its end"),
        Setting("max_lost", "3", f"a whole number from 1 to {MAX_INT}", lambda text: _whole(text, 1),
                "a job is dead after this many lost runs in a row"),
        Setting("lease", "30", _DURATION + ", at least 2 s", _lease,
                "how long a silent worker on another host keeps its jobs"),
        Setting("keep_completed", None, _MORE_THAN_0 + ", or none", _none_or_positive_duration,
                "workers delete completed and cancelled jobs this long after they ended"),
        Setting("keep_dead", None, _MORE_THAN_0 + ", or none", _none_or_positive_duration,
                "workers delete dead jobs this long after they died"),
        Setting("on_completed", None, _COMMAND, _command,
                "a shell command that is enqueued as a job of its own whenever a job completes"),
        Setting("on_dead", None, _COMMAND, _command,
                "a shell command that is enqueued as a job of its own whenever a job dies"),
    )
}  # fmt: skip

ALIASES = {"default_max_retries": "max_retries"}
# What other tools call it.
MEANT = {
    "callback": "on_completed", "on_success": "on_completed", "on_finish": "on_completed", "on_end": "on_completed",
    "on_failure": "on_dead", "on_failed": "on_dead", "on_error": "on_dead", "retries": "max_retries",
}  # fmt: skip


def find(key: Any) -> Setting:
    """Return the setting that *key* names; hyphens may stand for underscores, and aliases are known.

    Raises:
        InvalidSetting: There is no such setting; the message suggests the nearest.
    """
    if not isinstance(key, str):
        raise InvalidSetting(f"a setting's name must be a string, not {shown(key)}.")
    name = key.strip().replace("-", "_").lower()
    name = ALIASES.get(name, name)
    if name not in SETTINGS:
        from difflib import get_close_matches

        near = [MEANT[name]] if name in MEANT else get_close_matches(name, list(SETTINGS), 1)
        hint = f"Did you mean {near[0]}?" if near else "'queuectl config list' shows them all."
        raise InvalidSetting(f"unknown setting {key[:40]!r}. {hint}")
    return SETTINGS[name]


def check(key: str, value: Union[str, float, None]) -> str:
    """Return *value*, a text, a number or None, as the text to store for *key*.

    Raises:
        InvalidSetting: *key* is unknown, or *value* is not allowed for it.
    """
    setting = find(key)
    try:
        tidy = _as_typed(value)
        setting.parse(tidy)
    except (ValueError, OverflowError):
        raise InvalidSetting(f"{setting.key} must be {setting.kind}, not {shown(value)}.") from None
    return tidy


def _as_typed(value: Union[str, float, None]) -> str:
    """Return *value* as a user would type it.

    Raises:
        ValueError: *value* is neither a text nor a number nor None.
    """
    if isinstance(value, str):
        return value.strip()
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(value)
    return str(int(value) if value == int(value) else value)


class Config:
    """The settings in force: the defaults, overridden by what the store holds.

    Attributes have the settings' names. Durations are in seconds, sizes in bytes; a setting without a value is None.
    """

    max_retries: int
    backoff_base: float
    backoff_max: float
    backoff_jitter: float
    timeout: Optional[float]
    kill_grace: float
    output_limit: int
    max_lost: int
    lease: float
    keep_completed: Optional[float]
    keep_dead: Optional[float]
    on_completed: Optional[str]
    on_dead: Optional[str]

    def __init__(self, stored: Mapping[str, str]) -> None:
        lost = unreadable(stored)  # as if they were not set; doctor names them
        for key, setting in SETTINGS.items():
            text = setting.default if key in lost else stored.get(key, setting.default)
            setattr(self, key, None if text is None else setting.parse(text))


def unreadable(stored: Mapping[str, str]) -> List[str]:
    """Return the keys of stored texts that are no values of their settings: another version took them."""
    found = []
    for key, text in stored.items():
        try:
            if key in SETTINGS:
                SETTINGS[key].parse(text)
        except ValueError:
            found.append(key)
    return found
