"""Quoting words for ``cmd /c``, so that the program behind it gets exactly those words."""

from __future__ import annotations

from queuectl.errors import InvalidJob

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

# cmd takes these apart unless a caret stands before them; with a caret before each quote too, cmd never
# enters its quoted mode, in which carets would not count.
_CMD_MARKS = frozenset("()%!^\"<>&|;,=*?[]{}~`' \t@")
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+:./-\\")


def command_for_cmd(words: Sequence[str]) -> str:
    """Return *words*, a program and its arguments, as one command line of cmd.

    Raises:
        InvalidJob: A word has a line break, which cmd cannot be given.
    """
    program = words[0]
    # cmd looks for the program by itself: it needs quotes as people write them, around a slash too.
    if '"' in program or "%" in program or not program or (_SAFE.issuperset(program) and "/" not in program):
        program = quote_for_cmd(program)
    else:
        _refuse_line_break(program)
        program = f'"{program}"'
    return " ".join([program, *map(quote_for_cmd, words[1:])])


def _refuse_line_break(word: str) -> None:
    if "\n" in word or "\r" in word:
        raise InvalidJob("a word after -- has a line break, which cmd cannot take. Put it into a script.")


def quote_for_cmd(word: str) -> str:
    """Return *word* for a command line of cmd.

    Two readers take it apart, one after the other: cmd, which removes the carets, and the C
    runtime of the program, which reads double quotes and backslashes (CommandLineToArgvW).

    Raises:
        InvalidJob: It has a line break, which cmd cannot be given.
    """
    _refuse_line_break(word)
    if word and _SAFE.issuperset(word):
        return word
    return "".join("^" + char if char in _CMD_MARKS else char for char in _for_c_runtime(word))


def _for_c_runtime(word: str) -> str:
    """Return *word* in double quotes; backslashes are doubled where they stand before a quote."""
    parts = ['"']
    backslashes = 0
    for char in word:
        if char == "\\":
            backslashes += 1
            continue
        parts.append("\\" * (2 * backslashes + 1 if char == '"' else backslashes) + char)
        backslashes = 0
    parts.append("\\" * (2 * backslashes) + '"')
    return "".join(parts)
