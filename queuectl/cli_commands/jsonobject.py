"""Reading a job's JSON quickly: with the C scanner alone, which the ``json`` package wraps.

Importing ``json`` compiles regular expressions and takes a third of an enqueue's time; what it calls
for each text is this scanner. Whatever the scanner does not like is given to
``jobspec.fields_from_json``, which says in words what is wrong, so both read the same language.
"""

from __future__ import annotations

from queuectl.jobspec import fields_from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Tuple

    Scanner = Callable[[str, int], Tuple[Any, int]]

_WHITESPACE = " \t\n\r"


def _pairs(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _constant(name: str) -> Any:
    raise ValueError(name)  # NaN and the infinities are no JSON


class _Rules:
    """What ``json.JSONDecoder`` would tell the scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_pairs)
    array_hook = None  # from Python 3.15 on
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_constant)


def make_reader(verb: str = "enqueue") -> Callable[[str], Dict[str, Any]]:
    """Return a function from the text of a JSON object to its fields; or ``InvalidJob``, with advice for *verb*."""

    def explain(text: str) -> Dict[str, Any]:
        return fields_from_json(text, verb)

    try:
        from _json import make_scanner
    except ImportError:  # not CPython
        return explain
    rules: Any = _Rules()
    try:
        scan: Scanner = make_scanner(rules)
    except AttributeError:  # a later Python's asks for more
        return explain

    def read(text: str) -> Dict[str, Any]:
        tidy = text.strip(_WHITESPACE)
        try:
            value, end = scan(tidy, 0)
        except (ValueError, StopIteration, RecursionError, SystemError):
            # SystemError: the scanner wants to raise json's own error, and json is not imported.
            return explain(text)
        if end != len(tidy) or type(value) is not dict:
            return explain(text)
        return value

    return read
