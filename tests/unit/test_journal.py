"""The journal of claims and ends that are kept back: what is written is what is read, and half of it is nothing."""

from __future__ import annotations

import marshal
import os
from pathlib import Path
from typing import TYPE_CHECKING, List

import pytest

from queuectl import journal
from queuectl.job import Claim, Job, Outcome, RunEnd, State, Verdict

if TYPE_CHECKING:
    from queuectl.db.base import Ended


def an_end(run_id: int, command: str = "true") -> Ended:
    job = Job(
        run_id, f"job{run_id}", "default", "processing", 0, 17.5, command, "/", None, '["a"]', None, 2.0, 3, 1, 0, 0, 1,
        run_id, "w1", False, 16.5, 17.5, None, None,
    )  # fmt: skip
    end = RunEnd(Outcome.FAILED, 3, None, "exit 3", 18.25, 4096, 0.5)
    return Claim(job, run_id, 17.75), end, Verdict(State.FAILED, 20.25, "exit 3", 2.0)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "w1.ahead")


def test_what_was_written_is_read(path: str) -> None:
    """Ends with their verdicts and outputs, in order, and the claims that waited last."""
    written = journal.Journal(path)
    ends = [an_end(number) for number in range(1, 5)]

    assert written.begin([2, 3, 4, 5])
    assert written.add([3, 4, 5], ends[:1], [(1, [(0, b"out"), (9, bytearray(b"\0\xff"))], 4)])
    assert written.add([5], ends[1:3], [])
    left = journal.read(path)

    assert ([5], ends[:3]) == (left.waiting, left.ended)
    assert [(1, [(0, b"out"), (9, b"\0\xff")], 4)] == left.outputs
    assert isinstance(left.ended[0][0].job, Job)
    assert isinstance(left.ended[0][2], Verdict)


def test_one_record_of_any_size_takes_the_place_of_all(path: str) -> None:
    """Of a worker that gives up on the store: all that it still had, over what it had noted before."""
    written = journal.Journal(path)
    large = b"x" * (journal.MOST_BYTES + 1)

    assert written.begin([2, 3])
    assert written.add([3], [an_end(1)], [])
    assert not written.add([3], [an_end(2)], [(2, [(0, large)], None)])
    assert written.replace([3], [an_end(1), an_end(2)], [(2, [(0, large)], None)], [1, 2])
    left = journal.read(path)

    assert ([3], [an_end(1), an_end(2)], [(2, [(0, large)], None)]) == (left.waiting, left.ended, left.outputs)
    assert [1, 2] == left.known
    assert [os.path.basename(path)] == os.listdir(os.path.dirname(path))


def test_what_was_noted_stays_where_there_is_no_room_for_more(path: str) -> None:
    """A last record that cannot be written costs none of those that were."""
    written = journal.Journal(path)
    assert written.begin([2, 3])
    assert written.add([3], [an_end(1)], [])
    os.mkdir(path + ".new")

    assert not written.replace([3], [an_end(1), an_end(2)], [], [1, 2])

    assert [an_end(1)] == journal.read(path).ended


@pytest.mark.parametrize("body", [(), ([], [(("a job",), 1, 2.0, ("failed",), ("failed",))], [], None), "x"])
def test_what_another_release_wrote_says_nothing(path: str, body: object) -> None:
    """Its fields may be others: the runs in it count as lost, and nobody falls over it."""
    data = marshal.dumps(body)
    Path(path).write_bytes(journal._head(data, 1) + data)

    left = journal.read(path)

    assert ([], [], [], None) == (left.waiting, left.ended, left.outputs, left.known)


def test_no_journal_says_nothing(path: str) -> None:
    """Neither a missing nor an empty file is an error."""
    assert ([], [], []) == (journal.read(path).waiting, journal.read(path).ended, journal.read(path).outputs)
    Path(path).write_bytes(b"")
    assert [] == journal.read(path).waiting


def test_an_earlier_batch_is_not_read(path: str) -> None:
    """Records of equal size that an earlier batch left behind the last one do not belong to it."""
    written = journal.Journal(path)
    for first in (10, 20):
        written.begin([first, first + 1])
        if first == 10:
            written.add([first + 1], [an_end(9)], [])

    left = journal.read(path)

    assert ([20, 21], []) == (left.waiting, left.ended)


def test_a_record_cut_short_is_the_end(path: str) -> None:
    """At whatever byte: what stands before it holds."""
    written = journal.Journal(path)
    written.begin([2, 3])
    whole = len(Path(path).read_bytes())
    written.add([3], [an_end(1)], [])
    data = Path(path).read_bytes()

    for size in range(whole, len(data)):
        Path(path).write_bytes(data[:size])
        left = journal.read(path)
        assert ([2, 3], []) == (left.waiting, left.ended)
    torn = bytearray(data)
    torn[-1] ^= 1
    Path(path).write_bytes(torn)
    assert [2, 3] == journal.read(path).waiting


def test_a_large_record_is_refused(path: str) -> None:
    """Whoever prints much, or has a long command, hands in at once."""
    written = journal.Journal(path)
    written.begin([2])

    assert not written.add([], [an_end(1)], [(1, [(0, b"x" * journal.MOST_BYTES)], None)])
    assert not written.add([], [an_end(1, "x" * journal.MOST_BYTES)], [])
    assert [2] == journal.read(path).waiting


@pytest.mark.posix
def test_a_disk_that_takes_nothing_is_an_answer(path: str) -> None:
    """Full, or not there: nothing is kept back then, and what stood there before does not stay."""
    waiting: List[int] = [2]
    os.symlink("/dev/full", path)  # to be removed in its place

    assert not journal.Journal(path).begin(waiting)
    assert not os.path.lexists(path)
    assert not journal.Journal("/nowhere/w1.ahead").begin(waiting)


def test_a_claim_on_its_way_is_noted_until_the_next_record(path: str) -> None:
    """Beside the ends before it, with the runs that have begun."""
    written = journal.Journal(path)
    written.begin([2])
    written.add([], [an_end(1)], [])

    written.add([], [], [], [1, 2])
    left = journal.read(path)
    assert ([1, 2], [an_end(1)]) == (left.known, left.ended)

    written.add([], [], [])
    assert None is journal.read(path).known
    assert [an_end(1)] == journal.read(path).ended
