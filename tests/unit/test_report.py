"""What a worker shows when the sync of an end, which runs in a thread, goes wrong."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

import pytest

from queuectl.console import Console
from queuectl.errors import StoreRefused, StoreUnavailable
from queuectl.report import Report


class Disk:
    """As much of a store as a report asks for: its syncs raise what is in the list, and then succeed."""

    syncs = True

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    def sync(self) -> None:
        if self._errors:
            raise self._errors.pop(0)


Told = Tuple[Report, Callable[[float], Optional[StoreUnavailable]], Callable[[], bytes]]


@pytest.fixture
def reporting(eventually: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Told]]:
    """Make the report of one end to a disk, with functions that begin and await its sync, and read the console.

    The console is a file: into a pipe it writes in a thread of its own on Windows, and some time later.
    """
    open_fds: List[int] = []
    shown = tmp_path / "shown"

    def make(disk: Any) -> Told:
        writing = os.open(str(shown), os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        open_fds.append(writing)
        over = threading.Event()
        console = Console(writing)
        report = Report(disk, console, over.set)
        console.line("job1 completed")
        report.accepted()

        def tell(now_mono: float) -> Optional[StoreUnavailable]:
            error = report.tell(now_mono)
            eventually(lambda: report.is_synced() and over.is_set(), what="the end of the sync")
            return error

        return report, tell, shown.read_bytes

    yield make
    for fd in open_fds:
        os.close(fd)


def test_a_sync_that_failed_is_tried_again(reporting: Callable[..., Told]) -> None:
    """The end is shown when one has succeeded, and not before."""
    report, tell, shown = reporting(Disk(StoreUnavailable("the disk is away.")))

    tell(1.0)
    error = report.tell(1.01)
    assert ("the disk is away.", b"") == (str(error), shown())
    tell(2.0)
    report.tell(2.01)

    assert b"job1 completed\n" == shown()


@pytest.mark.parametrize("error", [StoreRefused("it was replaced."), RuntimeError("a bug")], ids=["refused", "bug"])
def test_any_other_error_reaches_the_loop(reporting: Callable[..., Told], error: Exception) -> None:
    """The thread does not die with it, which would leave all further ends untold for ever; nothing is shown."""
    report, tell, shown = reporting(Disk(error))

    tell(1.0)
    with pytest.raises(type(error), match=str(error)):
        report.tell(1.01)

    assert b"" == shown()


def test_what_the_last_sync_says_is_written(reporting: Callable[..., Told]) -> None:
    """A store that was replaced while the worker left is a line, as one that is away is."""
    report, _, shown = reporting(Disk(StoreRefused("it was replaced.")))

    report.finish()

    assert b"queuectl: it was replaced.\n" == shown()
