"""Lines that wait for their release, and one that does not; lines for which there is no room."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from queuectl.console import MOST_HELD, Console

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


def read_all(console: Console, fd: int) -> List[str]:
    """Read until the console has nothing more to write; return the lines."""
    data = b""
    while not console.flush():
        data += os.read(fd, 1 << 16)
    os.set_blocking(fd, False)
    try:
        while True:
            data += os.read(fd, 1 << 16)
    except BlockingIOError:
        return data.decode().splitlines()


def test_a_reader_who_stands_still_costs_no_more_than_the_limit(pipe: Tuple[int, int]) -> None:
    """What is held does not grow without bound; once it is read, one line says how many lines are missing there."""
    console = Console(pipe[1])
    most = 0
    for number in range(40000):
        console.line(f"line {number} {'x' * 40}")
        console.release()
        console.flush()
        most = max(most, len(console._held))
    shown = read_all(console, pipe[0])
    console.line("after")
    console.release()
    shown += read_all(console, pipe[0])

    missing = 40000 - (len(shown) - 2)
    assert MOST_HELD / 2 < most < MOST_HELD + 100
    assert shown[-2:] == [f"[{missing:,} lines left out: there was no room for more]", "after"]
    assert [f"line {number}" for number in range(len(shown) - 2)] == [line.rpartition(" ")[0] for line in shown[:-2]]


def test_a_reader_who_is_too_slow_reads_of_few_gaps(pipe: Tuple[int, int]) -> None:
    """Lines are taken again only when there is room for many."""
    console = Console(pipe[1])
    parts = []
    for _ in range(40000):
        console.line("x" * 99)
        console.release()
        console.flush()
        parts.append(os.read(pipe[0], 50))
    shown = (b"".join(parts).decode() + "\n".join(read_all(console, pipe[0]))).splitlines()

    gaps = [int(found[1].replace(",", "")) for found in map(re.compile(r"\[([\d,]+) lines left").match, shown) if found]
    assert 0 < len(gaps) < 5
    assert 40000 == shown.count("x" * 99) + sum(gaps)


def test_output_for_which_there_is_no_room_is_counted_too(pipe: Tuple[int, int]) -> None:
    """Nothing may follow that says it: the line about it comes with the next release."""
    console = Console(pipe[1])
    for _ in range(40):
        console.raw(b"words\n" * 10000)
    console.release()
    shown = read_all(console, pipe[0])
    console.release()
    shown += read_all(console, pipe[0])

    missing = 400000 - shown.count("words")
    assert shown[-1] == f"[{missing:,} lines left out: there was no room for more]"
    assert 0 < missing < 400000


def test_what_was_left_out_is_said_at_the_very_end_too(pipe: Tuple[int, int]) -> None:
    """A reader who is behind when the worker exits reads of the gap last, in the time that is left to read."""
    console = Console(pipe[1])
    for _ in range(40):
        console.raw(b"words\n" * 10000)
        console.release()
        console.flush()
    found = bytearray()

    def read() -> None:
        time.sleep(0.3)  # so that there is something to wait for at the end
        while not found.endswith(b"]\n"):
            found.extend(os.read(pipe[0], 1 << 16))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    console.finish(60.0)
    reader.join(10.0)

    shown = found.decode().splitlines()
    missing = 400000 - shown.count("words")
    assert shown[-1] == f"[{missing:,} lines left out: there was no room for more]"
    assert 0 < missing < 400000


def test_no_line_is_left_out_because_it_waits_for_its_release(home: Path) -> None:
    """Some long commands that are over before a sync is: there is room for what they are called."""
    home.mkdir()
    with (home / "out").open("wb") as file:
        console = Console(file.fileno())
        for number in range(30):
            console.line(f"{number} {'x' * 100_000}")
        console.raw(b"output\n")  # of this the store has a copy
        console.line("last")
        console.release()
        console.flush()

    shown = [line.split(" ")[0] for line in (home / "out").read_text().splitlines()]
    assert [*map(str, range(30)), "[1", "last"] == shown


FULL_FOR_A_WHILE = """
import os, resource, sys
from queuectl.console import Console, LogFile, open_log

kind, path = sys.argv[1:]
console = LogFile(path) if kind == "log" else Console(open_log(path))

def say(text):
    console.line(text)
    console.release()
    console.flush()

def limit(size):  # as a disk that has no more blocks for the file
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

say("before")
limit(os.path.getsize(path) + 3)
say("while it is full")
say("still")
limit(resource.RLIM_INFINITY)
say("room again")
console.finish()
"""


@pytest.mark.parametrize("kind", ["log", "redirected"])
def test_lines_that_met_a_full_disk_are_written_when_there_is_room(kind: str, home: Path) -> None:
    """A log that was cut short goes on where it was, and no line is missing."""
    home.mkdir()
    path = home / "out"
    subprocess.run([sys.executable, "-c", FULL_FOR_A_WHILE, kind, str(path)], check=True)

    said = [line[20:] if kind == "log" else line for line in path.read_text().splitlines()]
    assert ["before", "while it is full", "still", "room again"] == said


def test_a_reader_who_has_gone_is_given_up() -> None:
    """Nobody will ever read: nothing is kept."""
    reader, writer = os.pipe()
    console = Console(writer)
    os.close(reader)
    for _ in range(2):
        console.line("nobody hears")
        console.release()
        assert console.flush()
    os.close(writer)

    assert 0 == len(console._held)
