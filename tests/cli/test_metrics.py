"""``queuectl metrics``: figures for Prometheus, as its own client library reads them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Tuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

Samples = Dict[Tuple[str, FrozenSet[Tuple[str, str]]], float]


def read(text: str) -> Samples:
    """Return the values of an answer, by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def fetch(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return read(answer.read().decode())


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples["queuectl_" + name, frozenset(labels.items())]


def test_what_is_told(cli: Callable[..., Any], add: Callable[..., str], worker: Callable[..., Any]) -> None:
    """Jobs by queue and state, what is due and since when, switches, workers."""
    add("exit 3", "--max-retries", "0", "--queue", "build")
    cli("worker", "start", "--drain", code=0)
    add("true", "--queue", "mail", "--at", "2001-01-01")
    add("true", "--queue", "mail", "--delay", "1h")
    cli("queue", "pause", "mail", code=0)
    cli("queue", "limit", "build", "2", code=0)

    with worker("--count", "2", "--concurrency", "3"):
        told = read(cli("metrics", code=0).out)

    assert 1 == of(told, "up")
    assert (1, 0, 2) == (
        of(told, "jobs", queue="build", state="dead"), of(told, "jobs", queue="build", state="pending"),
        of(told, "jobs", queue="mail", state="pending"),
    )  # fmt: skip
    assert (1, 1, 1) == tuple(of(told, name, queue="mail") for name in ("due_jobs", "delayed_jobs", "queue_paused"))
    assert of(told, "oldest_due_age_seconds", queue="mail") > 20 * 365 * 86400
    assert 0 == of(told, "oldest_due_age_seconds", queue="build")
    assert [("build", 2)] == [
        (dict(labels)["queue"], value) for (name, labels), value in told.items() if name == "queuectl_queue_limit"
    ]
    by_host = {name: (labels, value) for (name, labels), value in told.items() if dict(labels).keys() == {"host"}}
    assert {"queuectl_workers": 2, "queuectl_worker_slots": 6} == {name: each[1] for name, each in by_host.items()}
    assert 1 == len({each[0] for each in by_host.values()})
    assert 1 == of(told, "runs_per_minute", outcome="failed")


def test_a_store_that_cannot_be_read(cli: Callable[..., Any], tmp_path: Path) -> None:
    """Once: a sentence, and no figures."""
    refused = cli("metrics", "--db", str(tmp_path / "none.db"), code=1)
    assert ("", True) == (refused.out, refused.err.startswith("queuectl: there is no store at "))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("x", "option --listen must be a port such as 9464, or a host and port such as 0.0.0.0:9464, not 'x'."),
        (":9464", "must be a port"),
        ("65536", "must be a port"),
        ("::1:9464", "must be a port"),
        ("[127.0.0.1]:9464", "must be a port"),
    ],
)
def test_an_address_that_is_none(cli: Callable[..., Any], address: str, message: str) -> None:
    """IPv6 addresses are in brackets, as in a URL."""
    assert message in cli("metrics", "--listen", address, code=2).err


def test_an_address_that_is_taken(cli: Callable[..., Any]) -> None:
    """It says which, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = cli("metrics", "--listen", str(port), code=1)
    assert refused.err.startswith(f"queuectl: cannot listen on 127.0.0.1:{port}: ")
    assert refused.err.endswith(". Give another --listen.\n")


def test_it_is_served(
    cli: Callable[..., Any], add: Callable[..., str], background: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    """Each answer is as of now; a stop ends it in order."""
    add("true")
    with background("metrics", "--listen", "0") as server:
        eventually(lambda: "/metrics\n" in server.out, what="the address")
        url = re.findall(r"Metrics at (http://127\.0\.0\.1:\d+/metrics)\n", server.out)[0]
        assert 1 == of(fetch(url), "jobs", queue="default", state="pending")
        add("true")
        assert 2 == of(fetch(url), "jobs", queue="default", state="pending")
        if os.name != "nt":
            os.kill(server.pid, signal.SIGTERM)
            assert 0 == server.wait(30).code


def test_a_store_that_comes_later(
    cli: Callable[..., Any], background: Callable[..., Any], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    """Until then it is down, and said once; nobody has to start the server again."""
    where = str(tmp_path / "later.db")
    with background("metrics", "--listen", "0", "--db", where) as server:
        eventually(lambda: "/metrics\n" in server.out, what="the address")
        url = server.out.split()[-1]
        assert [0, 0] == [of(fetch(url), "up") for _ in range(2)]
        assert 1 == len(fetch(url))
        assert 1 == server.err.count("queuectl: there is no store at ")
        cli("enqueue", "--db", where, "--", "true", code=0)
        assert (1, 1) == (of(fetch(url), "up"), of(fetch(url), "jobs", queue="default", state="pending"))


def test_without_the_library_it_asks_for_it(tmp_path: Path) -> None:
    """By the extra's name, in one sentence."""
    code = "import sys; sys.modules['prometheus_client'] = None; from queuectl.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "metrics"],
        env={**os.environ, "QUEUECTL_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr == "queuectl: metrics needs prometheus-client: pip install 'queuectl[metrics]'\n"
