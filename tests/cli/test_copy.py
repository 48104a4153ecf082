"""``queuectl copy``: what it prints; that everything arrives is tested in ``tests/process/test_copy.py``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest

from queuectl import Queue


@pytest.fixture
def many(home: Path) -> int:
    """Jobs for several blocks."""
    with Queue() as queue:
        queue.enqueue_many(["true"] * 6000)
    return 6000


@pytest.mark.posix
def test_a_bar_on_a_terminal(many: int, terminal: Callable[..., str]) -> None:
    """It fills, and is gone when the result is printed."""
    shown = terminal("copy", "--to", "b.db")

    assert "copying" in shown
    assert "checking 6,001 of 6,001 rows" in shown
    assert "[" + "#" * 30 + "] 100%" in shown
    assert f"Copied {many:,} jobs, 0 runs and 0 pieces of output to " in shown.rpartition("\r")[2]


def test_no_bar_in_a_pipe(many: int, cli: Callable[..., Any]) -> None:
    """Two lines for people; what to do next on standard error; nothing at all with ``-q``."""
    plain = cli("copy", "--to", "b.db", code=0)
    quiet = cli("copy", "--to", "c.db", "-q", code=0)
    told = json.loads(cli("copy", "--to", "d.db", "--json", code=0).out)

    assert 2 == len(plain.out.splitlines())
    assert plain.err.startswith("queuectl: from now on use the copy (--db or QUEUECTL_DB). ")
    assert ("", "") == (quiet.out, quiet.err)
    assert (many, False) == (told["rows"]["jobs"], told["resumed"])
    assert {64} == {len(text) for text in told["sha256"].values()}


def test_the_file_alone_is_the_copy(cli: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing of it is left in the log: whoever sends the file to another machine has sent all of it."""
    cli("enqueue", "--", "true", code=0)
    cli("copy", "--to", str(tmp_path / "copy.db"), code=0)

    shutil.copyfile(tmp_path / "copy.db", tmp_path / "sent.db")

    sent = json.loads(cli("--db", str(tmp_path / "sent.db"), "status", "--json", code=0).out)
    assert 1 == sent["jobs"]["pending"]


def test_refusals_are_one_sentence(many: int, cli: Callable[..., Any]) -> None:
    """No target, a used one, no source."""
    cli("copy", "--to", "b.db", code=0)
    cli("--db", "b.db", "enqueue", "--", "true", code=0)
    used = cli("copy", "--to", "b.db")
    nothing = cli("--db", "missing.db", "copy", "--to", "c.db")

    assert (2, 1, 1) == (cli("copy").code, used.code, nothing.code)
    assert "b.db is not empty, so nothing was copied into it." in used.err
    assert "there is no store at" in nothing.err
    assert 1 == len(used.err.splitlines()) == len(nothing.err.splitlines())
    assert not Path("c.db").exists()
