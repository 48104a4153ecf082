"""Words after ``--`` on Windows: quoted for cmd and for the C runtime, one after the other."""

from __future__ import annotations

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.cli_commands.windows_quote import command_for_cmd, quote_for_cmd
from queuectl.errors import InvalidJob


def after_cmd(line: str) -> str:
    """Return what cmd hands to a program: it takes carets away, outside of double quotes."""
    seen, quoted, position = [], False, 0
    while position < len(line):
        char = line[position]
        if char == "^" and not quoted:
            position += 1
            char = line[position]
        else:
            quoted ^= char == '"'
            assert quoted or char not in "&|<>()%!", f"cmd would act on {char!r} in {line!r}"
            assert char != "%", "cmd expands variables within quotes too"
        seen.append(char)
        position += 1
    return "".join(seen)


def argv(line: str) -> List[str]:
    """Return the words that a program's C runtime makes of its command line (CommandLineToArgvW)."""
    words: List[str] = []
    current, quoted, begun, backslashes = "", False, False, 0
    for char in line + " ":
        if char == "\\":
            backslashes += 1
            begun = True
            continue
        if char == '"':
            current += "\\" * (backslashes // 2)
            if backslashes % 2:
                current += '"'
            else:
                quoted = not quoted
            begun = True
        else:
            current += "\\" * backslashes
            if char in " \t" and not quoted:
                if begun:
                    words.append(current)
                current, begun = "", False
            else:
                current += char
                begun = True
        backslashes = 0
    return words


WORDS = [
    "plain", "", "two words", 'say "hi"', "a&b|c<d>e", "100%", "%PATH%",
    "a^b", "C:\\dir\\", "C:\\my dir\\", '\\"', "\\\\",
    "!x!", "(a)", "it's", "\u00fc\u4e2d", "tab\there",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_a_word_arrives_as_typed(word: str) -> None:
    """Through both readers."""
    assert [word] == argv(after_cmd(quote_for_cmd(word)))


@given(st.lists(st.text(st.characters(blacklist_characters="\0\r\n", blacklist_categories=["Cs"])), min_size=1))
def test_any_words_arrive_as_typed(words: List[str]) -> None:
    """Whatever they hold, and each as one word."""
    assert words == argv(after_cmd(" ".join(map(quote_for_cmd, words))))


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("git", "git"),
        ("C:\\tools\\x.exe", "C:\\tools\\x.exe"),
        ("C:\\Program Files\\a & b\\x.exe", '"C:\\Program Files\\a & b\\x.exe"'),
        ("./build/run.exe", '"./build/run.exe"'),
        ("x^1.exe", '"x^1.exe"'),
        ("100%.exe", '^"100^%.exe^"'),
    ],
)
def test_the_program_is_found(program: str, line: str) -> None:
    """By cmd itself, which wants quotes as people write them."""
    assert line + ' ^"two^ words^"' == command_for_cmd([program, "two words"])


def test_a_line_break_cannot_be_given() -> None:
    """There cmd ends a command: refused instead of cut."""
    with pytest.raises(InvalidJob):
        quote_for_cmd("a\nb")
    with pytest.raises(InvalidJob):
        command_for_cmd(["a\rb c"])
