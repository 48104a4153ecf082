"""How things look: tables, JSON, colour, ages; and no control character of a job ever.

A command or an output that was enqueued by somebody else must not move the cursor, colour the
screen or hide a line when it is listed; every text of a job passes ``escape``.
"""

from __future__ import annotations

import os
import sys

from queuectl import events
from queuectl.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection, Dict, Iterable, Iterator, List, Optional, Sequence, TextIO

    from queuectl.job import Job

#: Text on one line, with whatever could play tricks with a screen escaped: workers' lines need it too.
escape = events.printable

# A console of Windows goes to the next line as soon as one is full: the line's end would then leave an empty one.
_SPARED_COLUMNS = 1 if os.name == "nt" else 0

_COLOURS = {
    "processing": "36", "completed": "32", "failed": "33", "dead": "31", "cancelled": "35",
    "running": "36", "timed_out": "33", "lost": "31", "stopped": "35",
}  # fmt: skip


def note(message: str) -> None:
    """Print *message* on standard error, on one line, as queuectl's own."""
    # Written in one piece: otherwise a Ctrl-C may come before the end of the line, and what is said of it stand behind.
    print(f"queuectl: {escape(message)}\n", end="", file=sys.stderr, flush=True)


def say(message: str) -> None:
    """Print a friendly line where there is no data to print: to people, never into a pipe."""
    if is_terminal():
        print(message)
    elif is_terminal(sys.stderr):
        print(message, file=sys.stderr, flush=True)


def is_terminal(stream: Optional[TextIO] = None) -> bool:
    """Say whether *stream* (default: standard output) is shown to somebody."""
    try:
        return (stream or sys.stdout).isatty()
    except (AttributeError, ValueError):
        return False


def terminal_width() -> int:
    """Return how many columns of the terminal a line may take; ``COLUMNS`` wins."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given[:6]) > 0:
        return int(given[:6])
    try:
        return (os.get_terminal_size(sys.stdout.fileno()).columns or 80) - _SPARED_COLUMNS
    except (AttributeError, OSError, ValueError):
        return 80


def wants_colour(no_color: int) -> bool:
    """Say whether to colour standard output: a terminal that can, and nobody minds."""
    if no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not is_terminal():
        return False
    # Older Windows consoles show the codes instead of colours.
    return os.name != "nt" or "WT_SESSION" in os.environ or "TERM" in os.environ


def paint(text: str, state: str, colour: bool) -> str:
    """Return *text* in the colour of *state*."""
    code = _COLOURS.get(state)
    return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text


# -- widths -----------------------------------------------------------------------------------


def width(text: str) -> int:
    """Return how many columns *text* takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    columns = 0
    for char in text:
        # Marks without a combining class, such as vowels of Thai and Hindi, stand above or below a letter as well.
        if not unicodedata.combining(char) and char != "\u200d" and unicodedata.category(char) not in ("Mn", "Me"):
            columns += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return columns


def shorten(text: str, columns: int) -> str:
    """Return *text*, cut with an ellipsis if it is wider than *columns*."""
    if len(text) <= columns and width(text) <= columns:
        return text
    mark = ellipsis()
    kept = text[: max(columns, 0)]
    while kept and width(kept) + len(mark) > columns:
        kept = kept[:-1]
    return kept + mark


def ellipsis() -> str:
    """Return one character for "and so on", or three dots where the output's encoding has none."""
    try:
        "\u2026".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "..."
    return "\u2026"


# -- tables -----------------------------------------------------------------------------------

_FIRST_ROWS = 1000  # the widths are taken from these: a table may have more rows than fit into memory
GAP = 2  # blanks between two columns
# As much of a text that can be cut as is worth a column.
LEAST_TEXT = 12
# As much of a name, of up to 128 characters, as a narrow terminal shows: enough to tell one from another.
NAME_COLUMNS = 30


def write_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[str] = (),
    state_column: str = "",
    colour: bool = False,
    cut: Sequence[str] = (),
    spare: Sequence[str] = (),
    wrap: bool = False,
    names: Sequence[str] = (),
) -> int:
    """Write *rows* of escaped cells under *headers* to standard output; return how many there were.

    Nothing is written for no rows. On a terminal that is too narrow columns are left out and cut.

    Args:
        headers: The columns' names.
        rows: A cell for each.
        right: Columns that are set to the right.
        state_column: The column with a state, to be painted.
        colour: Whether to paint.
        cut: Columns that may be cut, besides the last.
        spare: Columns that may be left out, the least important first.
        wrap: Go on with the last column's text in the next line instead of cutting it.
        names: Columns with ids and names: cut where room lacks, but only very long ones.
    """
    source = iter(rows)
    first: List[Sequence[str]] = []
    for row in source:
        first.append(row)
        if len(first) == _FIRST_ROWS:
            break
    if not first:
        return 0
    widths = [max(width(row[at]) for row in (headers, *first)) for at in range(len(headers))]
    shown = list(range(len(headers)))
    most: Dict[int, int] = {}
    if is_terminal():
        room = terminal_width()
        soft = {len(headers) - 1, *(at for at, header in enumerate(headers) if header in cut)}
        if _least_room(widths, shown, soft) > room:
            most = {at: NAME_COLUMNS for at, header in enumerate(headers) if header in names}
            widths = [min(each, most.get(at, each)) for at, each in enumerate(widths)]
        shown = _that_fit(widths, [headers.index(name) for name in spare], soft, room)
        _share(widths, shown, soft, room)
        most.update((at, widths[at]) for at in soft)
        last = shown[-1]
        if last in soft:  # more rows may follow, and one that is wider may have all that the others leave
            left = room - sum(widths[at] + GAP for at in shown[:-1])
            most[last] = max(left, widths[last])
    columns = [
        _Column(widths[at], headers[at] in right, colour and headers[at] == state_column, most.get(at)) for at in shown
    ]
    count = -1
    for row in _chained([headers, *first], source):
        _write_row([row[at] for at in shown], columns, wrap)
        count += 1
    return count


class _Column(NamedTuple):
    """How wide a column is; whether its cells are set to the right and painted; from what width on they are cut."""

    width: int
    right: bool
    painted: bool
    most: Optional[int]


def _chained(first: List[Sequence[str]], rest: Iterator[Sequence[str]]) -> Iterator[Sequence[str]]:
    yield from first
    yield from rest


def _that_fit(widths: Sequence[int], spare: Sequence[int], soft: Collection[int], room: int) -> List[int]:
    """Return which columns to show in *room*: without those *spare* ones that must go; *soft* ones can be cut."""
    shown = list(range(len(widths)))
    for at in spare:
        if _least_room(widths, shown, soft) <= room:
            break
        shown.remove(at)
    return shown


def _least_room(widths: Sequence[int], shown: Sequence[int], soft: Collection[int]) -> int:
    """Return how many columns of a screen the *shown* ones need, with as little of the *soft* ones as is of use."""
    return sum(min(widths[at], LEAST_TEXT) if at in soft else widths[at] for at in shown) + GAP * (len(shown) - 1)


def _share(widths: List[int], shown: Sequence[int], soft: Collection[int], room: int) -> None:
    """Narrow the *soft* columns to what the others leave, in equal parts as far as they need it."""
    left = room - GAP * (len(shown) - 1) - sum(widths[at] for at in shown if at not in soft)
    sharing = sorted((at for at in shown if at in soft), key=lambda at: widths[at])
    for done, at in enumerate(sharing):
        widths[at] = min(widths[at], max(left // (len(sharing) - done), LEAST_TEXT - GAP))
        left -= widths[at]


def _write_row(cells: Sequence[str], columns: Sequence[_Column], wrap: bool) -> None:
    """Write a row; with *wrap* a last cell that is too wide goes on below."""
    last = columns[-1]
    more: List[str] = []
    if wrap and last.most is not None and width(cells[-1]) > last.width:
        import textwrap

        first, *more = textwrap.wrap(cells[-1], last.width)
        cells = [*cells[:-1], first]
    shown = []
    over = 0  # columns that cells took beyond their own, in a row that is wider than those the widths are from
    for cell, column in zip(cells, columns):
        most = column.most
        if most is not None and column is last:
            most = max(most - over, LEAST_TEXT - GAP)
        plain = cell if most is None else shorten(cell, most)
        over += max(width(plain) - column.width, 0)
        space = " " * (column.width - width(plain))
        text = paint(plain, plain, column.painted)
        shown.append(space + text if column.right else text + space)
    before = " " * (sum(column.width + GAP for column in columns) - last.width - GAP)
    sys.stdout.write(
        "".join(line + "\n" for line in [(" " * GAP).join(shown).rstrip(), *(before + text for text in more)])
    )


def write_fields(fields: Sequence[Sequence[str]]) -> None:
    """Write (name, value) pairs as two aligned columns; the lines of a value of several stand below each other."""
    column = max(len(name) for name, _ in fields) + 1
    for name, value in fields:
        first, *more = value.split("\n")
        print(f"{name + ':':<{column}} {first}".rstrip())
        for line in more:
            print(f"{'':<{column}} {line}".rstrip())


# -- JSON -------------------------------------------------------------------------------------


def write_json(value: Any) -> None:
    """Write *value* as one JSON document; ASCII, so it arrives whole through any encoding."""
    import json

    print(json.dumps(value, indent=2))


def write_json_array(items: Iterable[Dict[str, Any]]) -> None:
    """Write *items* as one JSON array, an item a line, without holding them all."""
    import json

    encode = json.JSONEncoder().encode
    write = sys.stdout.write
    before = "["
    for item in items:
        write(f"{before}\n{encode(item)}")
        before = ","
    write("[]\n" if before == "[" else "\n]\n")


def write_json_lines(items: Iterable[Dict[str, Any]]) -> None:
    """Write *items* as JSON Lines: an object a line."""
    import json

    encode = json.JSONEncoder().encode
    write = sys.stdout.write
    for item in items:
        write(encode(item) + "\n")


# -- words ------------------------------------------------------------------------------------


def plural(count: int, noun: str) -> str:
    """Return ``1 job``, ``2,000 jobs``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_text(size: int) -> str:
    """Return bytes for people: ``512 B``, ``3.4 MiB``."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def when(job: Job, now: float) -> str:
    """Return, in a few words, the instant that matters most about *job* in its state."""
    from queuectl.clock import format_duration
    from queuectl.job import WAITING

    if job.state in WAITING:
        if job.held:
            after = job.after
            return "after " + (
                after[0] if len(after) == 1 and len(after[0]) <= LEAST_TEXT else plural(len(after), "job")
            )
        if not job.is_due(now):
            return "in " + format_duration(job.run_at - now)
        since_at = max(job.run_at, job.created_at)
        return "due for " + format_duration(now - since_at) if since_at <= now else "due"
    if job.state == "processing":
        return "for " + format_duration(max(now - job.updated_at, 0.0))
    return format_duration(max(now - (job.ended_at or job.updated_at), 0.0)) + " ago"
