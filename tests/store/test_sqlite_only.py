"""What only a SQLite store has to bear: its file, its neighbours, locks, kills, and damage."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys

import pytest

from queuectl.db import open_store, sqlite_file
from queuectl.errors import JobNotFound, StoreError, StoreRefused, StoreUnavailable
from queuectl.job import JobFilter
from tests.store.build import T0, bring_to, completed, spec, specs, worker

ADD_ONE = """
import sys
from queuectl.db import open_store
from queuectl.jobspec import JobSpec
sys.stdin.readline()
print(*open_store(sys.argv[1]).add([JobSpec("true", "/")]))
"""

ADD_FOR_EVER = """
import sys
from queuectl.db import open_store
from queuectl.jobspec import JobSpec
store = open_store(sys.argv[1])
while True:
    print(*store.add([JobSpec("true", "/")]), flush=True)
"""

HANG_IN_A_TRANSACTION = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE queues SET pending = 99")
db.execute("DELETE FROM jobs")
print("in", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path):
    """Where a store may be made, in a folder that does not exist yet."""
    return str(tmp_path / "home" / "jobs.db")


@pytest.fixture
def store(path):
    """A store with one worker."""
    store = open_store(path)
    store.register(worker("w1"))
    yield store
    store.close()


@pytest.fixture
def raw(path, store):
    """A second, plain connection to the store's file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
        yield db


@pytest.fixture
def start():
    """Start a Python script with pipes; whatever still runs at the test's end is killed."""
    started = []

    def run(script, *words):
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", script, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                universal_newlines=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def contents(folder):
    """Return the bytes of every file in *folder*, by name."""
    return {entry.name: open_bytes(entry.path) for entry in os.scandir(folder) if entry.is_file()}


def open_bytes(path):
    """Return a file's bytes."""
    with open(path, "rb") as file:
        return file.read()


def write_bytes(path, data):
    """Make the file *path*, and its folder, with these bytes."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


# -- making a store ---------------------------------------------------------------------------


@pytest.mark.posix
def test_nobody_else_may_read_a_new_store(path):
    """Folder 0700, file 0600, and the WAL beside it too, whatever the umask."""
    before = os.umask(0)
    try:
        with contextlib.closing(open_store(path)) as store:
            store.add([spec()], T0)
            modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(os.path.dirname(path))}
    finally:
        os.umask(before)

    assert {"jobs.db": 0o600, "jobs.db-wal": 0o600, "jobs.db-shm": 0o600} == modes
    assert 0o700 == os.stat(os.path.dirname(path)).st_mode & 0o777


@pytest.mark.posix
def test_a_folder_that_exists_keeps_its_mode(tmp_path):
    """A store in somebody's own folder does not lock others out of it."""
    os.chmod(str(tmp_path), 0o755)

    open_store(str(tmp_path / "jobs.db")).close()

    assert 0o755 == os.stat(str(tmp_path)).st_mode & 0o777


def test_a_new_store_is_alone_in_its_folder(path):
    """Nothing of the making is left; after the last connection closed the file is all there is."""
    open_store(path).close()

    assert ["jobs.db"] == os.listdir(os.path.dirname(path))


def test_a_missing_store_is_not_made_unasked(path):
    """Who only looks makes nothing, not even the folder."""
    with pytest.raises(StoreRefused, match="there is no store at"):
        open_store(path, create=False)

    assert not os.path.exists(os.path.dirname(path))


def test_an_empty_file_becomes_a_store(path):
    """SQLite itself takes an empty file for an empty database, and so do people who made one."""
    write_bytes(path, b"")

    with contextlib.closing(open_store(path)) as store:
        assert ["job1"] == store.add([spec()], T0)


@pytest.mark.posix
@pytest.mark.parametrize("name", ["with space.db", "é漢😀.db", "a?b#c%20d.db", "line\nbreak.db", os.fsdecode(b"\xff\xfe.db")])
def test_any_file_name_will_do(tmp_path, name):
    """Blanks, signs of URLs and bytes that are no UTF-8 are parts of names like others."""
    with contextlib.closing(open_store(str(tmp_path / name))) as store:
        store.add([spec()], T0)

    assert [os.fsencode(name)] == os.listdir(os.fsencode(str(tmp_path)))


@pytest.mark.posix
def test_a_store_behind_a_link_is_one_store(path, tmp_path):
    """A symbolic link to a store opens it."""
    open_store(path).close()
    link = str(tmp_path / "link.db")
    os.symlink(path, link)

    with contextlib.closing(open_store(link)) as store:
        assert ["job1"] == store.add([spec()], T0)


@pytest.mark.posix
def test_a_link_to_nowhere_is_refused(tmp_path):
    """It is neither followed nor replaced, and the message names it."""
    link = str(tmp_path / "link.db")
    os.symlink(str(tmp_path / "nowhere"), link)

    with pytest.raises(StoreError, match="link.db"):
        open_store(link)

    assert (["link.db"], True) == (os.listdir(str(tmp_path)), os.path.islink(link))


@pytest.mark.parametrize("how", ["file", "directory"])
def test_a_path_that_cannot_be_a_store_is_refused(tmp_path, how):
    """A directory, or a file where the folder should be: the message names the path."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "directory").mkdir()
    path = str(tmp_path / "file" / "jobs.db") if how == "file" else str(tmp_path / "directory")

    with pytest.raises(StoreError, match="cannot (open|make) the store .*" + how):
        open_store(path)

    assert (b"x", []) == ((tmp_path / "file").read_bytes(), os.listdir(str(tmp_path / "directory")))


def test_a_network_file_system_is_refused(path, monkeypatch):
    """SQLite's locks cannot be trusted there, so no store is made."""
    monkeypatch.setattr(sqlite_file, "network_file_system", lambda folder: "nfs4")

    with pytest.raises(StoreRefused, match="network file system .nfs4."):
        open_store(path)

    assert not os.path.exists(path)


@pytest.mark.parametrize("found", ["nothing", "an empty file"])
def test_sixty_processes_make_one_store(path, start, found):
    """All enqueue at the same moment where there is no store yet: 60 jobs, no number twice, none left out."""
    if found == "an empty file":
        write_bytes(path, b"")
    processes = [start(ADD_ONE, path) for _ in range(60)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate() for process in processes]

    with contextlib.closing(open_store(path, create=False)) as store:
        stored = [job.id for job in store.jobs(JobFilter())]

    expected = sorted(f"job{number}" for number in range(1, 61))
    assert {""} == {err for _, err in answers}
    assert expected == sorted(out.strip() for out, _ in answers) == sorted(stored)
    assert ["jobs.db"] == os.listdir(os.path.dirname(path))


# -- stores that are not ours -----------------------------------------------------------------


def refuse(path, match):
    """Open what is at *path*; it has to be refused, and no byte of any file there may change."""
    before = contents(os.path.dirname(path))

    for create in (True, False):
        with pytest.raises(StoreRefused, match=match):
            open_store(path, create)

    # Beside a damaged store in WAL mode SQLite leaves the two files of that mode.
    after = contents(os.path.dirname(path))
    assert before == {name: after[name] for name in before}
    assert {name for name in after if not name.endswith(("-wal", "-shm"))} <= before.keys()


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_another_programs_database_is_left_alone(path, journal):
    """It is told by its header before anything is written."""
    os.makedirs(os.path.dirname(path))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = " + journal)
        db.execute("CREATE TABLE jobs (id TEXT)")
        db.execute("INSERT INTO jobs VALUES ('theirs')")
        db.commit()

    refuse(path, "another program's database")


def test_a_newer_schema_is_left_alone(path, store, raw):
    """An older release does not touch what a newer one wrote, and says what to do."""
    raw.execute("PRAGMA user_version = 999")
    raw.close()
    store.close()

    refuse(path, "newer queuectl .schema 999.*Install the newer release")


@pytest.mark.parametrize(
    "data",
    [b"x", b"not a database at all\n" * 500, os.urandom(64) * 200, b"SQLite format 3\0" + b"\xff" * 5000],
    ids=["one byte", "text", "noise", "header only"],
)
def test_a_file_that_is_no_database_is_left_alone(path, data):
    """Whatever it is, it is somebody's."""
    write_bytes(path, data)

    refuse(path, "damaged or not a SQLite database|another program")


@pytest.mark.parametrize("keep", [50, 99, 100, 512, 4095, 4096, 8192, 12288, -4096])
def test_a_truncated_store_is_left_alone(path, store, keep):
    """A store that lost its end, however much, is refused and stays as it is for a rescue."""
    store.add(specs(200), T0)
    store.close()
    whole = open_bytes(path)
    write_bytes(path, whole[:keep])

    refuse(path, "damaged or not a SQLite database")


@pytest.mark.parametrize("offset", [0, 16, 100, 4096])
def test_a_store_with_an_overwritten_part_is_left_alone(path, store, offset):
    """Garbage in the header, the schema or the next page: refused when opened or when looked at, never written."""
    store.add(specs(50), T0)
    store.close()
    data = bytearray(open_bytes(path))
    data[offset : offset + 2000] = b"\xa5" * 2000
    write_bytes(path, bytes(data))

    with pytest.raises(StoreRefused, match="damaged|another program|not a complete"):
        with contextlib.closing(open_store(path)) as damaged:
            problems = damaged.check()
            assert problems
            raise StoreRefused("damaged: " + problems[0].what)

    assert bytes(data) == open_bytes(path)


def test_a_store_that_vanished_is_not_written_into_nothing(path, store):
    """What would be lost is refused, and no new store is made in its place."""
    store.add([spec()], T0)
    os.rename(path, path + ".moved")

    with pytest.raises(StoreRefused, match="has vanished"):
        store.add([spec()], T0)
    assert not os.path.exists(path)
    os.rename(path + ".moved", path)
    assert ["job2"] == store.add([spec()], T0)


def test_a_store_that_was_replaced_is_not_written(path, store, tmp_path):
    """Neither the old file, which nobody can find any more, nor the new one, which is another store."""
    other = str(tmp_path / "other.db")
    open_store(other).close()
    os.replace(other, path)
    before = open_bytes(path)

    for write in (lambda: store.add([spec()], T0), lambda: store.renew("w1", 30, 1.0), store.reset):
        with pytest.raises(StoreRefused, match="was replaced"):
            write()

    assert before == open_bytes(path)


def test_a_closed_store_says_so(store):
    """Reading and writing after the closing are errors of the family, not SQLite's."""
    store.close()

    for use in (lambda: store.get("job1"), lambda: store.add([spec()], T0), store.check):
        with pytest.raises(StoreUnavailable, match="is closed"):
            use()


# -- locks ------------------------------------------------------------------------------------


def test_readers_do_not_wait_for_a_writer(store, raw, monkeypatch):
    """While somebody holds the write lock every look answers at once: with no patience at all."""
    store.add([spec(delay_s=50)], T0)
    monkeypatch.setattr(sqlite_file, "PATIENCE_S", -1.0)
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("UPDATE queues SET pending = 7")

    assert ("pending", 1) == (store.get("job1").state, store.queues()[0].pending)
    assert ([], T0 + 50, []) == (store.claim("w1", 1, (), T0), store.next_due((), T0), store.check())
    assert 1 == len(store.jobs(JobFilter()))
    raw.execute("ROLLBACK")


def test_a_writer_does_not_wait_for_readers(store, raw):
    """A long look elsewhere, in a transaction of its own, holds up nobody."""
    store.add([spec()], T0)
    raw.execute("BEGIN")
    before = raw.execute("SELECT count(*) FROM jobs").fetchone()

    store.add([spec()], T0)

    assert before == raw.execute("SELECT count(*) FROM jobs").fetchone()
    assert 2 == len(store.jobs(JobFilter()))


def test_a_writer_waits_for_another(path, raw, start):
    """A locked store makes an enqueue late, not wrong: nobody ever reads that a database is locked."""
    raw.execute("BEGIN IMMEDIATE")
    process = start(ADD_ONE, path)
    process.stdin.write("go\n")
    process.stdin.flush()
    with pytest.raises(subprocess.TimeoutExpired):  # it waits, and does not give up
        process.wait(1.0)
    raw.execute("COMMIT")

    out, err = process.communicate()

    assert ("job1\n", "") == (out, err)


def test_patience_ends_with_a_sentence(path, store, raw, monkeypatch):
    """A lock that is never given back ends in an error that a person understands; nothing was written."""
    monkeypatch.setattr(sqlite_file, "PATIENCE_S", 0.05)
    raw.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="was busy for .* Try again") as refused:
        store.add([spec()], T0)

    raw.execute("ROLLBACK")
    assert "locked" not in str(refused.value)
    assert ["job1"] == store.add([spec()], T0)


# -- kills, full disks, read-only -------------------------------------------------------------


def test_a_process_killed_in_a_transaction_leaves_no_trace(path, store, start):
    """Its half-done writing is gone, its lock too."""
    store.add(specs(3), T0)
    process = start(HANG_IN_A_TRANSACTION, path)
    assert "in\n" == process.stdout.readline()

    process.kill()
    process.wait()

    assert ["job4"] == store.add([spec()], T0)
    assert (4, []) == (len(store.jobs(JobFilter())), store.check())


@pytest.mark.parametrize("lines", [1, 20, 77])
def test_what_was_acknowledged_survives_a_kill(path, store, start, lines):
    """Every id that a killed enqueuer printed is a job, and at most one that it could not print any more."""
    process = start(ADD_FOR_EVER, path)
    printed = [process.stdout.readline().strip() for _ in range(lines)]
    process.kill()
    printed += process.communicate()[0].split()

    stored = [job.id for job in store.jobs(JobFilter(), limit=100_000)]

    assert printed == stored[: len(printed)]
    assert len(stored) - len(printed) in (0, 1)
    assert [f"job{len(stored) + 1}"] == store.add([spec()], T0)


def test_a_full_disk_changes_nothing(store):
    """The batch is refused as a whole with a sentence; with room again all goes on, and no number is missing."""
    store.add([spec()], T0)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(StoreUnavailable, match="disk of .* is full; nothing was changed"):
        store.add([spec("x" * 5000) for _ in range(100)], T0)
    store._db.execute(f"PRAGMA max_page_count = {pages + 10_000}")

    assert ["job2"] == store.add([spec()], T0)
    assert [] == store.check()


def test_a_store_that_cannot_be_written_says_so(store):
    """Looking goes on; writing is refused with a sentence."""
    store.add([spec()], T0)
    store._db.execute("PRAGMA query_only = 1")

    with pytest.raises(StoreUnavailable, match="cannot write to .* read-only"):
        store.add([spec()], T0)
    assert "pending" == store.get("job1").state


# -- inside the file --------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch):
    """Collect the inode of every file that is synced."""
    inodes = []
    real = sqlite_file._fdatasync

    def record(descriptor):
        inodes.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(sqlite_file, "_fdatasync", record)
    return inodes


WRITES = {
    "add": lambda store: store.add([spec()], T0),
    "cancel": lambda store: store.cancel(["job1"], T0),
    "retry": lambda store: store.retry(["over"], now=T0),
    "edit": lambda store: store.edit("job1", {"priority": 1}, T0),
    "pause": lambda store: store.set_paused("default", True),
    "limit": lambda store: store.set_limit("default", 1),
    "setting": lambda store: store.set_setting("lease", "40"),
    "prune": lambda store: store.prune(JobFilter()),
    "reset": lambda store: store.reset(),
    "release": lambda store: store.release_lost("gone", 3, T0),
}


@pytest.mark.parametrize("verb", sorted(WRITES))
def test_an_answer_means_that_the_disk_has_it(path, store, synced, verb):
    """Whoever reads the acknowledgement may pull the plug: the WAL was synced before the verb returned."""
    bring_to(store, "cancelled", "over")
    store.add([spec()], T0)
    synced.clear()

    WRITES[verb](store)

    assert os.stat(path + "-wal").st_ino in synced


def test_a_refused_write_is_not_worth_a_sync(store, synced):
    """Nothing was written, so nobody waits for the disk."""
    with pytest.raises(JobNotFound):
        store.cancel(["nope"], T0)

    assert [] == synced


def test_the_ends_of_runs_are_on_the_disk_after_a_sync(path, store, synced):
    """``claim`` and ``finish`` do not wait for the disk; ``sync`` does."""
    store.add([spec()], T0)
    synced.clear()
    store.finish("w1", [completed(store.claim("w1", 1, (), T0)[0])], now=T0)
    before = list(synced)

    store.sync()

    assert ([], [os.stat(path + "-wal").st_ino]) == (before, synced)


@pytest.mark.parametrize(("asked", "waits"), [("NORMAL", False), ("normal", False), ("full", True), ("", True)])
def test_one_switch_trades_power_cuts_for_speed(path, synced, monkeypatch, asked, waits):
    """QUEUECTL_SYNCHRONOUS=normal, and nothing else, leaves the syncing to the operating system."""
    monkeypatch.setenv("QUEUECTL_SYNCHRONOUS", asked)
    with contextlib.closing(open_store(path)) as store:
        store.add([spec()], T0)

    assert waits == bool(synced)


@pytest.mark.parametrize(
    "change",
    [
        "state = 'sleeping'",
        "state = 'processing'",
        "state = 'completed', ready = 0",
        "state = 'failed', ready = 0",
        "ready = 0",
        "ready = 3",
        "ended_at = 1.0",
        "worker_id = 'w1'",
        "cancel_requested = 1",
        "failures = 1",
        "losses = 1",
        "attempts = 1",
        "attempts = -1",
        "max_retries = -1",
        "timeout_s = 0",
        "backoff_base = 0.5",
        "command = NULL",
    ],
)
def test_the_database_itself_holds_the_rules(store, raw, change):
    """A job cannot be brought into a state that makes no sense, not even by hand."""
    store.add([spec()], T0)

    with pytest.raises(sqlite3.IntegrityError):
        raw.execute(f"UPDATE jobs SET {change}")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("UPDATE queues SET pending = pending + 1", "counters"),
        ("UPDATE jobs SET queue = 'elsewhere'", "counters"),
        ("UPDATE schema_version SET checksum = 'x'", "migration"),
        ("DELETE FROM workers", "worker w1"),
        ("DELETE FROM jobs WHERE state = 'processing'", "run"),
    ],
)
def test_check_finds_what_is_wrong(store, raw, damage, word):
    """Wrong counters, a changed migration, jobs without a worker, runs without a job: each is told with advice."""
    bring_to(store, "processing")
    assert [] == store.check()

    raw.execute(damage)
    problems = store.check()

    assert any(word in problem.what for problem in problems)
    assert all(problem.advice for problem in problems)
