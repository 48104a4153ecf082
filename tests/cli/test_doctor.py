"""``queuectl doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import Any, Callable, Dict

import pytest

from queuectl import Queue


def test_a_healthy_store(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Exit code 0, nothing bad."""
    add("true")

    result = cli("doctor", code=0)
    document = json.loads(cli("doctor", "--json", code=0).out)

    assert "ok    store    undamaged (integrity, schema and counters)\n" in result.out
    assert "ok    jobs     none stuck\n" in result.out
    assert document["ok"] is True
    assert {"ok"} <= {found["level"] for found in document["findings"]} <= {"ok", "note"}
    assert ("", "", 0) == cli("doctor", "-q")


@pytest.mark.posix
def test_a_store_that_others_may_read(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """With the command that mends it."""
    add("true")
    os.chmod(str(home / "jobs.db"), 0o644)

    result = cli("doctor", "-q")

    assert result.code == 1
    assert result.out.startswith(f"bad   access   other users may use {home / 'jobs.db'} (mode 644).\n")
    assert f"Fix it: chmod 600 '{home / 'jobs.db'}'\n" in result.out


@pytest.mark.posix
def test_a_store_with_two_names(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """A note, for it may be a backup's: whoever opens it by the other name has another log, and damages it."""
    add("true")
    os.link(str(home / "jobs.db"), str(home.parent / "other.db"))

    result = cli("doctor", code=0)

    assert f"note  store    {home / 'jobs.db'} has 2 names (hard links), each with its own log: " in result.out
    assert f"find / -xdev -samefile '{home / 'jobs.db'}'\n" in result.out


@pytest.mark.posix
def test_a_store_behind_a_link(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """Its log and its folder are those of the file itself; the link's folder may not be everybody's either."""
    add("true")
    link = home.parent / "links" / "link.db"
    link.parent.mkdir(mode=0o700)
    link.symlink_to(home / "jobs.db")
    assert "ok    access   only you can read the store\n" in cli("doctor", "--db", str(link), code=0).out
    reader = sqlite3.connect(str(home / "jobs.db"), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM sqlite_master").fetchall()
    os.truncate(str(home / "jobs.db-wal"), 65 << 20)
    for folder in (home, link.parent):
        os.chmod(str(folder), 0o777)

    result = cli("doctor", "-q", "--db", str(link), code=1)
    reader.close()

    assert f"bad   log      the write-ahead log {home / 'jobs.db'}-wal has grown to 65.0 MiB.\n" in result.out
    for folder in (home, link.parent):
        assert f"bad   access   other users may use {folder} (mode 777).\n" in result.out


@pytest.mark.posix
def test_a_run_folder_that_others_may_write_to(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """It is not used, which is said; without it, and with one that is fine, there is nothing to say."""
    add("true")
    folder = home / "jobs.db-run"
    assert 0 == cli("doctor", "-q").code
    folder.mkdir(0o700)
    assert ("", "", 0) == cli("doctor", "-q")
    folder.chmod(0o777)

    result = cli("doctor", "-q")

    assert result.code == 1
    assert result.out.startswith(f"bad   access   {folder} may be written to by others (mode 777). It is not used, ")


@pytest.mark.posix
def test_a_store_in_a_folder_for_everybody(cli: Callable[..., Any], home: Any) -> None:
    """A sticky bit keeps others from taking files away, not from putting some beside the store."""
    shared = home.parent / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    env = {"QUEUECTL_DB": str(shared / "jobs.db")}
    cli("enqueue", "--", "true", env=env, code=0)

    result = cli("doctor", env=env, code=0)

    assert f"note  access   other users may put files next to the store: {shared} is open to everyone.\n" in result.out


def test_jobs_that_nobody_takes(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """Due for more than a minute without a live worker; one that came just now with a time long past is not."""
    add("true", "--at", "2020-01-01T00:00:00Z", "--queue", "mail")
    assert "none stuck" in cli("doctor", code=0).out
    add("true", "--at", "2020-01-02T00:00:00Z", "--queue", "mail")
    with contextlib.closing(sqlite3.connect(str(home / "jobs.db"), isolation_level=None)) as store:
        store.execute("UPDATE jobs SET created_at = created_at - 7200 WHERE id = 'job2'")

    result = cli("doctor", "-q")

    assert result.code == 1
    assert result.out.startswith("bad   jobs     queue mail has jobs due for 2 h, ")
    assert "Start one: queuectl worker start\n" in result.out


def test_many_queues_that_nobody_serves(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """The five that have been due longest are named; that there are more is said once."""
    for number in range(8):
        add("true", "--queue", f"q{number}")
    with contextlib.closing(sqlite3.connect(str(home / "jobs.db"), isolation_level=None)) as store:
        store.execute("UPDATE jobs SET created_at = created_at - 3600 * seq, run_at = run_at - 3600 * seq")

    result = cli("doctor", "-q", code=1)

    told = [line.split(", ")[0] for line in result.out.splitlines() if line.startswith("bad")]
    assert told == [
        *(f"bad   jobs     queue q{number} has jobs due for {number + 1} h" for number in range(7, 2, -1)),
        "bad   jobs     more queues have jobs that are due",
    ]


def test_a_paused_queue_is_a_note(cli: Callable[..., Any], add: Callable[..., str]) -> None:
    """Somebody wanted it so."""
    add("true", "--at", "2020-01-01T00:00:00Z")
    cli("queue", "pause", "default", code=0)

    assert "note  jobs     queue default is paused; 1 job is waiting.\n" in cli("doctor", code=0).out


def test_a_live_worker_counts(cli: Callable[..., Any], worker: Callable[..., Any]) -> None:
    """And is not found hanging."""
    with worker("--count", "2"):
        assert "ok    workers  2 alive\n" in cli("doctor", code=0).out


def test_a_setting_that_another_version_took(
    cli: Callable[..., Any], add: Callable[..., str], drain: Callable[..., Any], job: Callable[[str], Dict[str, Any]]
) -> None:
    """Workers go by the default instead of ending, and doctor says so until it is set anew."""
    add("false", "--max-retries", "1", "--backoff-base", "1")
    with Queue() as queue:
        queue.store.set_setting("backoff_jitter", "5s")

    drain()
    result = cli("doctor", code=1)

    assert "dead" == job("job1")["state"]
    assert "bad   settings backoff_jitter is '5s', which is not a share from 0 to 1 such as 0.1 or 10%;" in result.out
    cli("config", "unset", "backoff_jitter", code=0)
    cli("doctor", code=0)


def test_a_damaged_store(cli: Callable[..., Any], add: Callable[..., str], home: Any) -> None:
    """Exit code 1 and a sentence, whether it can still be opened or not."""
    for _ in range(3):
        add("echo " + "x" * 5000)
    path = home / "jobs.db"
    data = bytearray(path.read_bytes())
    for start in range(8192, len(data), 4096):
        data[start : start + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    for suffix in ("-wal", "-shm"):
        extra = home / ("jobs.db" + suffix)
        if extra.exists():
            extra.unlink()

    result = cli("doctor")

    assert result.code == 1
    assert "Traceback" not in result.err + result.out


def test_a_store_that_cannot_be_opened_is_a_finding(cli: Callable[..., Any], home: Any) -> None:
    """After what can be said without it; the document is one for monitoring too."""
    path = home.parent / "foreign.db"
    path.write_bytes(b"no database, but dear to somebody " * 100)

    plain = cli("doctor", "--db", str(path))
    document = json.loads(cli("doctor", "--json", "--db", str(path)).out)

    assert (plain.err, plain.code) == ("", 1)
    assert plain.out.startswith("ok    version  queuectl ")
    assert f"bad   store    {path} is damaged or not a SQLite database" in plain.out
    assert plain.out.endswith("Restore a backup, or move the file away to start again.\n")
    assert document["ok"] is False
    assert [(found["about"], found["level"]) for found in document["findings"]][::2] == [
        ("version", "ok"), ("store", "bad"),
    ]  # fmt: skip


def test_a_mistyped_path_is_a_finding_and_makes_no_store(cli: Callable[..., Any], home: Any) -> None:
    """An empty store, made that moment, would be found healthy."""
    path = home.parent / "mistyped.db"

    result = cli("doctor", "-q", "--db", str(path))

    assert result == (f"bad   store    there is no store at {path}.\n{'':15}'queuectl enqueue' creates one.\n", "", 1)
    assert not path.exists()
