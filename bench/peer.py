"""What the peers on one machine share: what is said of each, a folder per drain, processes that end with it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence

from bench.measure import scratch_home

DEADLINE_S = 300.0
LOG = "log"  # what the processes of a drain print, in its folder


class Peer(NamedTuple):
    """One of those that are measured."""

    version: str
    kept: str  # what of a job is on disk or anywhere, and when
    jobs: int
    drain: Callable[[int, int], float]  # jobs and slots to seconds


class NotDoneError(Exception):
    """A peer did not do its work: there is no figure for it."""


@contextmanager
def folder() -> Iterator[Path]:
    """Work in a folder of its own."""
    before = os.getcwd()
    with scratch_home() as found:
        os.chdir(str(found))
        try:
            yield found
        finally:
            os.chdir(before)


@contextmanager
def running(*commands: Sequence[str], **options: Any) -> Iterator[List[subprocess.Popen[bytes]]]:
    """Start processes, each in a session of its own; at the end kill what is left of these sessions."""
    processes: List[subprocess.Popen[bytes]] = []
    try:
        with open(LOG, "ab") as log:
            for words in commands:
                options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **options}
                processes.append(subprocess.Popen(list(words), start_new_session=True, **options))
        yield processes
    finally:
        for process in processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def must(done: int, jobs: int) -> None:
    """Refuse a figure for work that was not done."""
    if done != jobs:
        raise NotDoneError(f"{done} of {jobs} jobs ended well{_last_words()}")


def until(over: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]] = (), pause_s: float = 0.01) -> None:
    """Wait until *over*; not if all *processes* that should bring it about have ended."""
    give_up = time.monotonic() + DEADLINE_S
    while not over():
        ended = bool(processes) and all(process.poll() is not None for process in processes)
        if ended and not over():
            raise NotDoneError(f"its processes ended before the work was done{_last_words()}")
        if time.monotonic() > give_up:
            raise NotDoneError(f"not over after {DEADLINE_S:.0f} s{_last_words()}")
        time.sleep(pause_s)


def _last_words() -> str:
    """Return the last line that a process of this drain printed, for the one who has to find out."""
    lines = Path(LOG).read_text(encoding="utf-8", errors="replace").split("\n") if Path(LOG).exists() else []
    said = [line.strip() for line in lines if line.strip()]
    return f", its last words: {said[-1]}" if said else ""


def output(*words: str, **options: Any) -> bytes:
    """Return what a command prints; it has to end well."""
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, **options).stdout


def version(*words: str) -> str:
    """Return the version that a program prints."""
    found = re.search(r"\d+(\.\d+)+|\d{8}", output(*words).decode("utf-8", "replace"))
    return found.group() if found else "?"


def package_version(name: str) -> str:
    """Return the version of a Debian package, for programs that do not say theirs."""
    return output("dpkg-query", "-W", "-f=${Version}", name).decode() if shutil.which("dpkg-query") else "?"


def without(*prefixes: str, **more: str) -> Dict[str, str]:
    """Return the environment without variables that begin so, with *more*."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(prefixes)}, **more}
