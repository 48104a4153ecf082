"""Instants and durations: conversion between the texts that people use and the numbers that the code uses.

In the code, an instant is a float of Unix seconds, whose name ends in ``_at``, and a duration is a float of
seconds, whose name ends in ``_s``.
"""

from __future__ import annotations

import math
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import List, Optional, Tuple, Union

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

# A hundred years: long enough for any queue, and far from the end of datetime's range.
LONGEST_S = 100 * 366 * 86400.0

DURATION_HELP = "seconds or a duration such as 90, 1.5h, 2h30m or 1d, up to 100 years"
TIME_HELP = "a time such as 2030-01-31T08:00 (local, unless it has Z or an offset), from 1970 to 2199 (UTC)"


def parse_duration(text: str) -> float:
    """Return the seconds that *text* means: ``90``, ``1.5h``, ``2h30m``, ``500ms``, ``2 h 30 min``.

    Raises:
        ValueError: *text* is not a duration, is negative, or is longer than 100 years.
    """
    rest = text.strip().lower()
    if not rest.isascii():
        raise ValueError(f"not a duration: {text!r}")
    try:
        total_s = _plain_number(rest)
    except ValueError:
        total_s = _sum_of_units(rest, text)
    if not 0 <= total_s <= LONGEST_S:
        raise ValueError(f"not a duration between 0 and 100 years: {text!r}")
    return total_s


def _plain_number(text: str) -> float:
    """Return *text* as a float; accept only digits and one point, so no ``nan``, ``inf`` or ``1_0``."""
    if not text.replace(".", "", 1).isdigit():
        raise ValueError(text)
    return float(text)


def _sum_of_units(rest: str, text: str) -> float:
    total_s = 0.0
    while rest:
        digits = 0
        while digits < len(rest) and (rest[digits].isdigit() or rest[digits] == "."):
            digits += 1
        try:
            number = _plain_number(rest[:digits])
        except ValueError:
            raise ValueError(f"not a duration: {text!r}") from None
        rest = rest[digits:].lstrip()
        letters = 0
        while letters < len(rest) and rest[letters].isalpha():
            letters += 1
        unit = rest[:letters]
        if unit not in UNITS_S:
            raise ValueError(f"not a duration: {text!r}")
        total_s += number * UNITS_S[unit]
        rest = rest[letters:].lstrip()
    if not text.strip():
        raise ValueError("not a duration: it is empty")
    return total_s


def format_duration(duration_s: float) -> str:
    """Return a short text for people: ``5 ms``, ``0.3 s``, ``12 s``, ``2 min 5 s``, ``3 h 20 min``, ``2 d 4 h``."""
    if duration_s < 0:
        return "-" + format_duration(-duration_s)
    if 0.00005 < duration_s < 0.05:  # "0 s" would look like no timeout at all
        return f"{duration_s * 1000:.1f}".rstrip("0").rstrip(".") + " ms"
    if duration_s < 10:
        return f"{duration_s:.1f}".rstrip("0").rstrip(".") + " s"
    seconds = int(duration_s + 0.5)
    if seconds < 60:
        return f"{seconds} s"
    parts: List[Tuple[int, str]] = []
    for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        amount, seconds = divmod(seconds, size)
        if amount or parts:
            parts.append((amount, name))
        if len(parts) == 2:
            break
    return " ".join(f"{amount} {name}" for amount, name in parts if amount)


def parse_time(when: Union[str, datetime]) -> float:
    """Return the instant that *when*, an ISO 8601 text or a ``datetime``, means, in Unix seconds.

    A time without ``Z`` or an offset is local time. The separators may be left out: ``20300131T080000Z``.

    Raises:
        ValueError: The text is not an ISO 8601 time, or the time is outside the years 1970 to 2199.
    """
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(_strict_iso(when.strip())) if isinstance(when, str) else when
        instant_at = moment.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"not a time: {when!r}") from None
    if not 0 <= instant_at < 7258118400:
        raise ValueError(f"not a time between the years 1970 and 2199: {when!r}")
    return instant_at


def _strict_iso(text: str) -> str:
    """Return *text* in the one form that every Python reads alike.

    ``fromisoformat`` alone will not do: it reads more with each release, takes any separator and a final
    NUL, and in 3.8 skips a letter before the offset.

    Raises:
        ValueError: *text* is not an ISO 8601 time.
    """
    if text[-1:] in ("Z", "z"):
        text = text[:-1] + "+00:00"
    text = _with_separators(text.replace(",", ".", 1))  # "date -Ins" writes a comma, which ISO 8601 prefers
    day, gap, rest = text[:10], text[10:11], text[11:]
    sign = max(rest.find("+"), rest.find("-"))
    daytime, zone = (rest[:sign], rest[sign:]) if sign >= 0 else (rest, "")
    daytime, point, fraction = daytime.partition(".")
    if len(zone) in (3, 5):  # +05 and +0530, as date +%z prints them
        zone = f"{zone[:3]}:{zone[3:] or '00'}"
    shape = "".join("0" if letter in "0123456789" else letter for letter in day + daytime + zone.replace("-", "+"))
    if shape not in _TIME_SHAPES or gap not in ("T", "t", " ", "") or bool(gap) != bool(rest):
        raise ValueError(text)
    if point and not (fraction.isascii() and fraction.isdigit() and len(daytime) == 8):
        raise ValueError(text)
    return f"{day}{gap and 'T'}{daytime}{point}{fraction[:6].ljust(6, '0') if point else ''}{zone}"


def _with_separators(text: str) -> str:
    """Return *text* with the hyphens and colons that ISO 8601's basic format, ``20300131T080000``, leaves out.

    Raises:
        ValueError: *text* begins like the basic format but is not in it.
    """
    if not text[:8].isdigit() or text[8:9] not in ("T", "t", ""):
        return text
    digits = next((at for at, letter in enumerate(text[9:]) if not letter.isdigit()), len(text[9:]))
    if digits not in ((4, 6) if len(text) > 8 else (0,)):
        raise ValueError(text)
    daytime = ":".join(text[at : at + 2] for at in range(9, 9 + digits, 2))
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}{text[8:9]}{daytime}{text[9 + digits :]}"


_TIME_SHAPES = frozenset("0000-00-00" + rest for rest in ("", "00:00", "00:00:00", "00:00+00:00", "00:00:00+00:00"))


def iso_utc(instant_at: float) -> str:
    """Return an instant as ISO 8601 in UTC, to the millisecond: ``2030-01-31T07:00:00.250Z``."""
    whole = math.floor(instant_at)
    millis = min(int((instant_at - whole) * 1000 + 0.5), 999)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{millis:03d}Z"


def local_text(instant_at: float, now: Optional[float] = None) -> str:
    """Return an instant in local time: ``14:03:07`` if on the day of *now*, else ``2030-01-31 14:03:07``."""
    moment = time.localtime(instant_at)
    if now is not None and time.localtime(now)[:3] == moment[:3]:
        return time.strftime("%H:%M:%S", moment)
    return time.strftime("%Y-%m-%d %H:%M:%S", moment)
