"""A job's JSON on a Windows command line, whose quotes were lost on the way to this program.

cmd and Windows PowerShell hand over '{"command":"echo hi"}' without a mark before its quotes, and the C runtime
takes them for its own: what arrives is "{command:echo" and "hi}". The line itself, as Windows keeps it for each
process, still has them.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional


def restored(words: List[str], line: Optional[str] = None) -> List[str]:
    """Return *words* with the JSON object among them as it was typed, if that can be told beyond doubt.

    Args:
        words: The arguments as the C runtime made them.
        line: The command line they were made from (None: this process's).
    """
    first = next((at for at, word in enumerate(words) if word.lstrip("'").startswith("{")), None)
    if first is None or "--" in words[:first] or _is_whole(words[first]):
        return words
    if line is None:
        line = _command_line()
    text = _first_object(line)
    wanted = _squeezed(text)
    found = ""
    for last in range(first, len(words)):
        found += _squeezed(words[last])
        if found == wanted:
            return [*words[:first], text, *words[last + 1 :]]
        if not wanted.startswith(found):
            break
    return words


def _is_whole(word: str) -> bool:
    """Say whether a word begins as a JSON object does: it has its quotes."""
    return word.startswith("{") and word[1:].lstrip()[:1] in ('"', "}", "")


def _squeezed(text: str) -> str:
    """Return *text* without what may be lost on the way."""
    return "".join(char for char in text if char not in "\"'\\" and not char.isspace())


def _first_object(line: str) -> str:
    """Return the first text in *line* that is a JSON object, empty if there is none."""
    import json

    decoder = json.JSONDecoder()
    at = line.find("{")
    while at >= 0:
        try:
            _, end = decoder.raw_decode(line, at)
            return line[at:end]
        except (ValueError, RecursionError):
            at = line.find("{", at + 1)
    return ""


def _command_line() -> str:
    if sys.platform != "win32":
        return ""
    import ctypes

    get = ctypes.windll.kernel32.GetCommandLineW
    get.restype = ctypes.c_wchar_p
    return get() or ""
