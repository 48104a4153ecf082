"""JSON whose quotes a Windows shell took away: found again in the command line, or left as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Callable, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.cli_commands.windows_words import restored
from tests.cli.test_windows_quote import argv

JOB = '{"command":"echo hi"}'


def arrived(line: str) -> List[str]:
    """Return what a program gets of *line*, behind its own name."""
    return argv(line)[1:]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        pytest.param(f"q enqueue '{JOB}'", ["enqueue", JOB], id="cmd"),
        pytest.param(f'q enqueue "{JOB}"', ["enqueue", JOB], id="Windows PowerShell"),
        pytest.param(f"q enqueue {JOB}", ["enqueue", JOB], id="without quotes around it"),
        pytest.param(f"q enqueue '{JOB}' --priority 5", ["enqueue", JOB, "--priority", "5"], id="options after it"),
        pytest.param(f"q --db x.db enqueue '{JOB}'", ["--db", "x.db", "enqueue", JOB], id="options before it"),
        pytest.param(
            r"""q enqueue "{"command":"echo \"hi\""}" """, ["enqueue", r'{"command":"echo \"hi\""}'], id="quotes inside"
        ),
        pytest.param(
            """q enqueue '{"command": "a  b",  "priority": 2}'""",
            ["enqueue", '{"command": "a  b",  "priority": 2}'],
            id="blanks inside",
        ),
        pytest.param(
            r"""q enqueue '{"command":"dir","cwd":"C:\\My Files"}'""",
            ["enqueue", r'{"command":"dir","cwd":"C:\\My Files"}'],
            id="backslashes",
        ),
        pytest.param(f"""C:\\{{5c0e}}\\q.exe enqueue '{JOB}'""", ["enqueue", JOB], id="a brace in the program's path"),
        pytest.param(
            """q enqueue '{"command":"x","env":{"A":"1"}}' -q""",
            ["enqueue", '{"command":"x","env":{"A":"1"}}', "-q"],
            id="an object inside",
        ),
    ],
)
def test_the_quotes_come_back(typed: str, words: List[str]) -> None:
    """As the original README's commands are typed in both shells of Windows."""
    assert arrived(typed) != words
    assert words == restored(arrived(typed), typed)


@pytest.mark.parametrize(
    "typed",
    [
        pytest.param(r'q enqueue "{\"command\":\"echo hi\"}"', id="escaped as it should be"),
        pytest.param("q enqueue --command {x}", id="no JSON at all"),
        pytest.param("q enqueue {command:echo}", id="typed without quotes"),
        pytest.param("q list", id="no brace"),
        pytest.param("""q enqueue -- echo '{"a":"b c"}'""", id="words for the command"),
        pytest.param(f"""q '{JOB}' && q enqueue {{other:thing}}""", id="another object"),
    ],
)
def test_everything_else_stays(typed: str) -> None:
    """What arrived whole, and what nobody can know."""
    line = typed.rpartition("&& ")[2] if "&&" in typed else typed

    assert arrived(line) == restored(arrived(line), typed)


TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


@given(st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.lists(TEXT)), min_size=1), st.booleans())
def test_what_comes_back_is_what_was_typed(job: Any, ascii_only: bool) -> None:
    """For any object: either the very text, or the words as they arrived, which no JSON reader takes."""
    text = json.dumps(job, ensure_ascii=ascii_only)
    words = arrived(f"q enqueue '{text}'")

    found = restored(words, f"q enqueue '{text}'")

    assert found in (["enqueue", text], words)


@pytest.mark.skipif(os.name != "nt", reason="Windows alone keeps the command line as it was typed")
@pytest.mark.parametrize("quoted", ["'{}'", '"{}"'])
def test_a_job_is_enqueued_as_typed(quoted: str, job: Callable[[str], Any], home: Any) -> None:
    """Through a real command line."""
    text = '{"command":"echo  \\"hi\\" %","priority":7}'
    done = subprocess.run(
        f'"{sys.executable}" -m queuectl enqueue {quoted.format(text)}',
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )

    assert (b"Enqueued job job1\r\n", 0) == (done.stdout, done.returncode)
    assert ('echo  "hi" %', 7) == (job("job1")["command"], job("job1")["priority"])
