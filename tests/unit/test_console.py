"""Lines that wait for their release, and one that does not."""

from __future__ import annotations

import os
from typing import Iterator, Tuple

import pytest

from queuectl.console import Console

pytestmark = pytest.mark.posix


@pytest.fixture
def pipe() -> Iterator[Tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_a_line_at_once_overtakes_what_waits(pipe: Tuple[int, int]) -> None:
    """What waits keeps its place, its release reaches as far as before, and a line begun by a command is ended."""
    console = Console(pipe[1])
    console.line("kept")
    console.raw(b"half")
    upto = console.position()

    console.at_once("now")
    console.flush()
    assert b"now\n" == os.read(pipe[0], 100)

    console.line("later")
    console.release(upto)
    console.flush()
    assert b"kept\nhalf" == os.read(pipe[0], 100)
    console.release()
    console.flush()
    assert b"\nlater\n" == os.read(pipe[0], 100)
