"""``queuectl demo``: the whole queue on one machine, told and proved."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from typing import Any, Callable

import pytest


@pytest.mark.posix
def test_the_story(cli: Callable[..., Any], home: Any) -> None:
    """Jobs, three workers, growing delays, the DLQ and the way back; the user's own store is not touched."""
    scratch = home.parent / "tmp"
    scratch.mkdir()
    result = cli("demo", env={"TMPDIR": str(scratch), "QUEUECTL_DB": str(home.parent / "mine.db")}, timeout=60)

    assert result.code == 0, result.out + result.err
    steps = [
        '$ queuectl enqueue \'{"command":"echo hello"}\'',
        "$ queuectl worker start --count 3 &",
        "retry 1 of 3 in 1.3 s",
        "retry 2 of 3 in 1.7 s",
        "retry 3 of 3 in 2.2 s",
        "job job4 dead (exit 1) after 4 runs",
        "$ queuectl dlq list",
        "$ queuectl dlq retry job4",
        "job4 completed",
        "$ queuectl logs job4\nAll figures are fine.\n",
        "$ queuectl worker stop",
        "Stopped 3 workers.",
    ]
    places = [result.out.find(step) for step in steps]
    assert -1 not in places, steps[places.index(-1)]
    assert places == sorted(places)
    assert not list(scratch.iterdir())
    assert not home.exists()
    assert not (home.parent / "mine.db").exists()


@pytest.mark.posix
def test_no_colours(terminal: Callable[..., str]) -> None:
    """``--no-color`` holds for the commands of the story too."""
    shown = terminal("demo", "--no-color")

    assert "completed: " in shown
    assert "\x1b[" not in shown


@pytest.mark.posix
def test_a_reader_that_has_seen_enough(home: Any) -> None:
    """``demo | head`` ends without a word, and leaves nothing."""
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m queuectl demo | head -n 12",
        shell=True, capture_output=True, timeout=60, text=True, check=True,
    )  # fmt: skip

    assert ("", 12) == (done.stderr, len(done.stdout.splitlines()))


@pytest.mark.posix
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_one_that_is_ended_leaves_nothing(
    background: Callable[..., Any], eventually: Callable[..., Any], number: str
) -> None:
    """Neither its workers, which would wait for ever, nor its folder."""
    demo = background("demo")
    eventually(lambda: demo.out.count("] pid=") >= 3, what="the workers")
    folder = demo.out.partition("temporary queue in ")[2].partition(",")[0]

    result = demo.stop(getattr(signal, number))

    assert ("queuectl: interrupted.\n", 130) == (result.err, result.code)
    assert not os.path.exists(folder)
