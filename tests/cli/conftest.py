"""Fixtures of the command line's tests: a terminal, jobs as data, workers that come and go."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

from tests.conftest import Result


@pytest.fixture
def jobs(cli: Callable[..., Result]) -> Callable[..., List[Dict[str, Any]]]:
    """Return the jobs that ``list --json`` prints, with further words for the command."""

    def read(*words: str) -> List[Dict[str, Any]]:
        return list(json.loads(cli("list", "--json", *words, code=0).out))

    return read


@pytest.fixture
def job(cli: Callable[..., Result]) -> Callable[[str], Dict[str, Any]]:
    """Return the job that ``show ID --json`` prints."""

    def read(job_id: str) -> Dict[str, Any]:
        return dict(json.loads(cli("show", job_id, "--json", code=0).out))

    return read


@pytest.fixture
def add(cli: Callable[..., Result]) -> Callable[..., str]:
    """Enqueue a command for the shell, with further words for the command line; return the job's id."""

    def enqueue(command: str, *words: str) -> str:
        return str(cli("enqueue", "-q", "--command", command, *words, code=0).out.strip())

    return enqueue


@pytest.fixture
def drain(cli: Callable[..., Result]) -> Callable[..., Result]:
    """Work off everything that is there, retries too."""

    def run(*words: str) -> Result:
        return cli("worker", "start", "--drain", *words, timeout=60, code=0)

    return run


@pytest.fixture
def worker(background: Callable[..., Any], eventually: Callable[..., Any]) -> Callable[..., Any]:
    """A foreground group for the length of a ``with`` block; all its workers have begun when the block does."""

    @contextmanager
    def start(*words: str) -> Iterator[Any]:
        count = int(words[words.index("--count") + 1]) if "--count" in words else 1
        with background("worker", "start", *words) as process:
            eventually(lambda: process.out.count("] pid=") >= count, what="the workers' start")
            yield process

    return start


@pytest.fixture
def terminal(home: Any) -> Callable[..., str]:
    """Run ``queuectl WORD ...`` on a terminal and return what it shows; POSIX only.

    Keywords: *columns*, *env* (added), *code* (asserted).
    """

    def run(*words: str, columns: int = 100, env: Optional[Dict[str, str]] = None, code: int = 0) -> str:
        import fcntl
        import pty
        import struct
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm", **(env or {})}
        process = subprocess.Popen(
            [sys.executable, "-m", "queuectl", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        try:
            shown = _read(ours, time.monotonic() + 30)
            assert process.wait(10) == code, shown
        finally:
            os.close(ours)
            if process.poll() is None:
                process.kill()
            process.wait()
        return shown.replace("\r\n", "\n")

    return run


def _read(descriptor: int, deadline: float) -> str:
    """Read until the other side is closed."""
    data = b""
    while select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # Linux says so when the last writer is gone
            break
        if not piece:
            break
        data += piece
    return data.decode("utf-8", "replace")
