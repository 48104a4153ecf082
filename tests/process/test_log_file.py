"""The log of a daemon's worker: several may write it, and a new one is begun when it is long."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from queuectl.console import LOG_BYTES, LogFile, open_log


def say(log: LogFile, word: str) -> None:
    log.line(word)
    log.release()
    log.flush()


def test_a_log_is_turned_over_although_another_has_it_open(home: Path) -> None:
    """Two groups share the log of their first workers; whoever finds it too long begins a new one, losing no line."""
    home.mkdir()
    path = home / "worker-0.log"
    path.write_bytes(b"x" * LOG_BYTES)
    one, other = LogFile(str(path)), LogFile(str(path))
    for log, said in ((other, "before"), (one, "first"), (other, "second"), (one, "third")):
        say(log, said)

    older = Path(f"{path}.1")
    assert ["before", "first"] == re.findall(r"\b([a-z]+)\n", older.read_text())
    assert ["second", "third"] == re.findall(r"\b([a-z]+)\n", path.read_text())
    assert not Path(f"{path}.2").exists()


def test_a_log_that_was_removed_is_begun_anew(home: Path) -> None:
    """Once the one that has no name any more is long."""
    home.mkdir()
    path = home / "worker-0.log"
    path.write_bytes(b"x" * LOG_BYTES)
    log = LogFile(str(path))
    os.rename(str(path), str(home / "taken away"))
    say(log, "too much")
    say(log, "anew")

    assert path.read_text().endswith(" anew\n")


def test_no_command_gets_the_log(home: Path) -> None:
    """Neither the first nor those after a turn are inherited: a command starts with three open files."""
    home.mkdir()
    log = LogFile(str(home / "worker-0.log"))
    before = os.get_inheritable(log._file)
    say(log, "x" * LOG_BYTES)
    say(log, "turned over")

    assert (False, False) == (before, os.get_inheritable(log._file))
    assert (home / "worker-0.log.1").exists()


def test_a_second_daemon_writes_behind_the_first(home: Path) -> None:
    """What a process inherits as its standard error goes to the end of the log, not over its beginning."""
    home.mkdir()
    path = home / "supervisor.log"
    path.write_bytes(b"the first\n")
    logs = [open_log(str(path)) for _ in range(2)]
    for number, log in enumerate(logs):
        code = f"import sys; print('started', {number}, file=sys.stderr)"
        subprocess.run([sys.executable, "-c", code], stderr=log, check=True)
        os.close(log)

    assert ["the first", "started 0", "started 1"] == path.read_text().splitlines()
