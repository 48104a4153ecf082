"""``copy``: a whole store into another of either kind, killed on the way and gone on with, equal row by row."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from queuectl import Queue, QueuectlError, copying
from queuectl.config import Config
from queuectl.db import open_store
from queuectl.db.migrate import UNFINISHED
from queuectl.db.transfer import TABLES
from queuectl.errors import Refused, StoreRefused
from queuectl.job import JobFilter
from queuectl.runner import identity
from tests.conftest import Result
from tests.postgres_server import shared_server
from tests.store.build import worker
from tests.store.engines import ENGINES

pytestmark = pytest.mark.posix

Cli = Callable[..., Result]
#: Many enough for several blocks: 500, 2,000 and the rest of the jobs, 500 and the rest of the runs.
MANY = 3_000
RUN = 1_000
ODD = "printf 'tab\\there \\\\ back\\n'; echo 'é 🐍 \\N \\.'; printf '\\000\\377\\012raw'"


@pytest.fixture(params=[(one, other) for one in sorted(ENGINES) for other in sorted(ENGINES)], ids="-".join)
def places(request: Any, tmp_path: Path, home: Path) -> Iterator[Tuple[str, str]]:
    """Where a store is, and where another will be: each pair of engines."""
    with contextlib.ExitStack() as stack:
        found = []
        for number, engine in enumerate(request.param):
            folder = tmp_path / str(number)
            folder.mkdir()
            found.append(stack.enter_context(ENGINES[engine](folder)))
        yield found[0], found[1]


def filled(where: str, cli: Cli) -> None:
    """Fill a store with jobs in every state that waits or has ended, and all that is set."""
    with Queue(where) as queue:
        queue.set_setting("max_lost", "7")
        queue.set_setting("backoff_base", "1")
        queue.pause("paused")
        queue.limit("mail", 2)
        queue.enqueue("exit 3", max_retries=1, tags=["a", "b"], env={"K": "v\tw\\x"}, priority=-5, queue="mail")
        queue.enqueue(ODD, id="job40", timeout=7.25)
        queue.enqueue("head -c 3000000 /dev/urandom", id="much")
        queue.enqueue("echo é; exit 1", max_retries=0, queue="mail")
        cli("--db", where, "worker", "start", "--drain", "--count", "2", timeout=60, code=0)
        queue.enqueue_many([{"command": f"echo {n}", "priority": n % 7, "delay": n % 3 * 1000} for n in range(50)])
        queue.enqueue("true", queue="paused", cwd="/")
        queue.cancel("job5")
        queue.retry("job40")


def rows_of(where: str) -> Dict[str, List[Any]]:
    """Return all that is copied, table by table, and where the counting stands."""
    store = open_store(where, create=False)
    try:
        port = store.port()
        found: Dict[str, List[Any]] = {table.name: port.rows(table, None, None, None) for table in TABLES}
        found["numbers"] = list(port.numbers())
        found["counters"] = list(store.queues())
        assert [] == store.check()
        return found
    finally:
        store.close()


def test_everything_is_copied(places: Tuple[str, str], cli: Cli) -> None:
    """Ids, order, runs, output to the byte, settings, switches, counters; the next id is the next; work goes on."""
    source, target = places
    filled(source, cli)
    before = rows_of(source)

    done = cli("--db", source, "copy", "--to", target, timeout=60, code=0)

    lines = done.out.splitlines()
    assert [f"Copied 55 jobs, 5 runs and {len(before['output'])} pieces of output to ", "All"] == [
        lines[0].partition("to ")[0] + "to ", lines[1].split(" ")[0],
    ]  # fmt: skip
    assert "from now on use the copy" in done.err
    assert before == rows_of(source) == rows_of(target)
    with Queue(source) as old, Queue(target) as new:
        assert [job._replace() for job in old.jobs()] == [job._replace() for job in new.jobs()]
        assert old.output("job40") == new.output("job40")
        assert old.output("much") == new.output("much")
        assert old.store.store_id != new.store.store_id
        assert Config(new.settings()).max_lost == 7
        assert old.enqueue("echo new").id == new.enqueue("echo new").id == "job55"
        with pytest.raises(QueuectlError):
            new.enqueue("true", id="job3")
        last_run = max(run.run_id for job in old.jobs() for run in old.runs(job.id))
        new.retry_where(_states("dead", "cancelled"))
        new.edit("job6", delay=0)
    cli("--db", target, "worker", "start", "--drain", "--queue", "mail", timeout=60, code=0)
    with Queue(target) as new:
        assert ["failed", "failed", "failed", "failed"] == [run.state for run in new.runs("job1")]
        assert new.runs("job1")[-1].run_id > last_run
        assert [] == new.check()


def test_what_waits_for_other_jobs_goes_on_in_the_copy(places: Tuple[str, str], cli: Cli) -> None:
    """Held there as here, and let go there; what was purged is still waited for."""
    source, target = places
    with Queue(source) as queue:
        queue.enqueue("false", id="dead", max_retries=0)
        cli("--db", source, "worker", "start", "--drain", timeout=60, code=0)
        queue.enqueue_many([{"command": "true", "id": "a"}, {"command": "true", "id": "b", "after": ["a", "dead"]}])
        queue.enqueue_many([{"command": "true", "id": "c", "after": "a"}, {"command": "true", "id": "d", "after": "c"}])
        queue.enqueue("true", id="cancelled", after="d")
        queue.cancel("cancelled")
        queue.prune(_states("dead"))

    cli("--db", source, "copy", "--to", target, timeout=60, code=0)

    assert rows_of(source) == rows_of(target)
    with Queue(target) as new:
        assert [("a", "pending"), (None, None)] == new.store.needs("b")
        assert {"b", "c", "d"} == {job.id for job in new.jobs() if job.held}
        new.retry("cancelled")
        assert new.get("cancelled").held
    cli("--db", target, "worker", "start", "--drain", timeout=60, code=0)
    with Queue(target) as new:
        assert {"a", "c", "d", "cancelled"} == {job.id for job in new.jobs(_states("completed"))}
        assert {"b": (None, None)} == new.store.stuck(["a", "b", "c"])
        assert [] == new.check()


def _states(*states: str) -> Any:
    from queuectl import JobFilter

    return JobFilter(states)


@pytest.mark.parametrize("at", ["copying:1", "copying:3", "copying:5", "checking:1", "checking:4", "checked", "copied"])
def test_killed_on_the_way_and_run_again(places: Tuple[str, str], cli: Cli, at: str) -> None:
    """``kill -9`` at the start, in the middle of the jobs, of the runs, of comparing: the second call finishes."""
    source, target = places
    with Queue(source) as queue:
        queue.enqueue_many([{"command": f"echo {n}", "tags": [f"t{n % 9}"]} for n in range(MANY)])
        _run_by_hand(queue, RUN)

    killed = cli("copy", "--db", source, "--to", target, env={"QUEUECTL_FAULT": f"copy/{at}"}, timeout=60)
    assert (-signal.SIGKILL, "") == (killed.code, killed.out)

    if at == "copied":
        again = cli("--db", source, "copy", "--to", target, timeout=60, code=0)
        told = json.loads(cli("--db", source, "copy", "--to", target, "--json", timeout=60, code=0).out)
        assert f" is already a complete copy ({MANY:,} jobs, " in again.out.splitlines()[0]
        assert "nothing was written" in again.out
        assert (False, True, MANY) == (told["resumed"], told["already"], told["rows"]["jobs"])
    else:
        other = cli("--db", target, "status")
        assert 1 == other.code
        assert "is an unfinished copy of another store. Run the same 'queuectl copy' again" in other.err
        with Queue(source) as queue:  # it lives on meanwhile
            assert f"job{MANY + 1}" == queue.enqueue("echo late").id
            queue.cancel("job2900")
            queue.prune(_states("completed")._replace(queues=("default",)))
        again = cli("--db", source, "copy", "--to", target, "--json", timeout=60, code=0)
        told = json.loads(again.out)
        assert (True, False, MANY + 1 - RUN) == (told["resumed"], told["already"], told["rows"]["jobs"])
        assert sorted(told["sha256"]) == sorted(table.name for table in TABLES)
    assert rows_of(source) == rows_of(target)


def this_process(worker_id: str, store: Any) -> Any:
    """Return this process as a worker that lives."""
    now, pid = store.now(), os.getpid()
    return worker(
        worker_id, host_id=identity.host_id(), pid=pid, pid_started=identity.process_started(pid), started_at=now,
        lease_expires_at=now + 30, renewed_mono_s=time.monotonic(),
    )  # fmt: skip


def _run_by_hand(queue: Queue, count: int) -> None:
    """Have a worker in this process run jobs, and write something for each."""
    from queuectl.job import Outcome, RunEnd, State, Verdict

    store = queue.store
    store.register(this_process("by-hand", store))
    for _ in range(count // 500):
        claims = store.claim("by-hand", 500)
        at = store.now()
        ends = [
            (claim, RunEnd(Outcome.COMPLETED, 0, None, None, at), Verdict(State.COMPLETED, None, None))
            for claim in claims
        ]
        outputs = [(claim.run_id, [(0, b"out\n")], None) for claim in claims]
        assert all(store.finish("by-hand", ends, outputs=outputs).accepted)
    store.unregister("by-hand")


def test_workers_are_in_the_way(places: Tuple[str, str], cli: Cli, background: Any, eventually: Any) -> None:
    """It refuses while they run; with ``--stop`` they finish first, with ``--now`` they put back."""
    source, target = places
    with Queue(source) as queue:
        queue.enqueue("touch begun; until [ -e go ]; do sleep 0.1; done")
        group = background("--db", source, "worker", "start", "--count", "2")
        eventually(lambda: os.path.exists("begun"))

        refused = cli("--db", source, "copy", "--to", target)
        assert (1, "") == (refused.code, refused.out)
        assert "queuectl: cannot copy while workers are running (pid " in refused.err
        assert "--stop stops them first, on all hosts, " in refused.err
        usage = cli("--db", source, "copy", "--to", target, "--now")
        assert (2, "queuectl: --now and --timeout say how to stop workers. Give --stop too.\n") == (
            usage.code, usage.err,
        )  # fmt: skip
        slow = cli("--db", source, "copy", "--to", target, "--stop", "--timeout", "0.3")
        assert 1 == slow.code
        assert "queuectl: workers were still running after 0.3 s (pid " in slow.err
        assert "Give --stop" not in slow.err  # it was given
        cli("--db", source, "copy", "--to", target, "--stop", "--now", code=0)
        assert 0 == group.wait().code

        assert "pending" == queue.get("job1").state
    Path("go").touch()
    cli("--db", target, "worker", "start", "--drain", timeout=60, code=0)
    with Queue(target) as new:
        assert "completed" == new.get("job1").state


def copy_that_waits(queue: Queue, source: str, target: str, background: Any, eventually: Any) -> Tuple[Any, Any]:
    """Return a group that was told to stop and has a job until a file *go* is there, and the copy that waits for it."""
    queue.enqueue("touch begun; until [ -e go ]; do sleep 0.1; done")
    group = background("--db", source, "worker", "start")
    eventually(lambda: os.path.exists("begun"))
    copying = background("--db", source, "copy", "--to", target, "--stop")
    eventually(lambda: any(worker.stop for worker in queue.workers()))
    return group, copying


def test_workers_that_start_while_the_others_stop(
    places: Tuple[str, str], cli: Cli, background: Any, eventually: Any
) -> None:
    """They are named as that: ``--stop`` was given, and to advise it helps nobody."""
    source, target = places
    with Queue(source) as queue:
        group, copying = copy_that_waits(queue, source, target, background, eventually)
        with background("--db", source, "worker", "start") as newcomer:
            eventually(lambda: len({worker.group_id for worker in queue.workers()}) == 2)
            Path("go").touch()
            done = copying.wait()
            assert 0 == group.wait().code
            assert newcomer.running
    assert (1, "") == (done.code, done.out)
    assert done.err.startswith("queuectl: workers started while others were stopped (pid ")
    assert "--stop" not in done.err
    cli("--db", source, "copy", "--to", target, code=0)


@pytest.mark.parametrize("options", ["", " --stop", " --stop --now"])
def test_a_job_cannot_copy_its_own_store(places: Tuple[str, str], cli: Cli, options: str) -> None:
    """Its worker cannot be gone before it; with ``--now`` it was put back, for the next worker to do the same."""
    source, target = places
    with Queue(source) as queue:
        queue.enqueue(f"{sys.executable} -m queuectl copy --to '{target}'{options}; echo code $?")
        cli("--db", source, "worker", "start", "--drain", timeout=60, code=0)
        assert "completed" == queue.get("job1").state
        said = queue.output("job1").decode()
    assert said == (
        "queuectl: cannot copy from inside job1: its worker runs as long as this command does. Copy from outside the "
        "queue.\ncode 1\n"
    )


def test_a_ctrl_c_while_the_workers_stop_says_that_they_still_do(
    places: Tuple[str, str], cli: Cli, background: Any, eventually: Any
) -> None:
    """They have been told, and nothing takes that back; the next copy goes on from there."""
    source, target = places
    with Queue(source) as queue:
        group, copying = copy_that_waits(queue, source, target, background, eventually)
        copying.send(signal.SIGINT)
        done = copying.wait()
        Path("go").touch()

        assert 130 == done.code
        assert "queuectl: interrupted. Workers that were told to stop still do; " in done.err
        assert 0 == group.wait().code
        assert "completed" == queue.get("job1").state
    cli("--db", source, "copy", "--to", target, "--stop", code=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda queue: queue.enqueue("true"),
        lambda queue: queue.edit("job2", priority=1),
        lambda queue: queue.cancel("job2"),
        lambda queue: queue.set_setting("max_lost", "9"),
        lambda queue: queue.pause("mail"),
    ],
    ids=["a job more", "another priority", "a job cancelled", "another setting", "a queue paused"],
)
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_copy_that_has_changed_since_is_not_taken_for_complete(
    places: Tuple[str, str], change: Any, side: str
) -> None:
    """One difference, on either side: the target is a store with jobs like any other, and stays as it is."""
    source, target = places
    with Queue(source) as queue:
        queue.enqueue_many(["echo 1", "echo 2", "echo 3"])
        assert not queue.copy_to(target).already
        assert queue.copy_to(target).already
    with Queue(source if side == "source" else target) as queue:
        change(queue)
    before = rows_of(target)

    with Queue(source) as queue, pytest.raises(QueuectlError, match="is not empty, so nothing was copied into it"):
        queue.copy_to(target)

    assert before == rows_of(target)


@pytest.mark.parametrize("how", ["pruned", "reset"])
def test_an_id_that_comes_again_meanwhile(places: Tuple[str, str], how: str) -> None:
    """The job that had it was copied and is deleted; the next one of this name comes in behind it."""
    source, target = places
    with Queue(source) as queue, Queue(source) as somebody:
        queue.enqueue("echo old", id="mine")
        queue.cancel("mine")
        queue.enqueue_many(["true"] * 600)

        def replace(what: str, done: int, _rows: int) -> None:
            if what == "copying" and somebody.get("mine").command == "echo old" and done > 500:
                somebody.reset() if how == "reset" else somebody.prune(JobFilter(("cancelled",)))
                somebody.enqueue("echo new", id="mine")
                somebody.enqueue("true")

        queue.copy_to(target, tell=replace)
        assert "echo new" == queue.get("mine").command

    assert rows_of(source) == rows_of(target)


def test_others_write_while_it_compares(places: Tuple[str, str], cli: Cli) -> None:
    """Another process enqueues, edits, prunes and works off, all behind what was compared; the copy has it all."""
    source, target = places
    calls: List[List[str]] = [
        ["queue", "pause", "mail"],
        ["config", "set", "max_lost", "7"],
        ["enqueue", "--id", "late", "--", "echo late"],
        ["prune", "--state", "completed", "--yes"],
        ["edit", "job600", "priority=3"],
        ["cancel", "job601"],
        ["enqueue", "--id", "run", "--priority", "9", "--", "echo run"],
        ["worker", "start", "--drain", "--queue", "urgent"],
    ]
    left = list(calls)
    with Queue(source) as queue:
        queue.enqueue_many([f"echo {n}" for n in range(MANY)])
        _run_by_hand(queue, 500)
        queue.enqueue("echo urgent", queue="urgent", id="urgent")
        time.sleep(1.1)  # beyond the instant in which it cannot be told whether rows have changed

        def write(what: str, _done: int, _rows: int) -> None:
            if what == "checking" and left:
                cli("--db", source, *left.pop(0), timeout=20, code=0)

        copied = queue.copy_to(target, tell=write)

        assert [] == left
        assert MANY - 500 + 3 == copied.rows["jobs"]
        assert "completed" == queue.get("urgent").state
    assert rows_of(source) == rows_of(target)


def test_checksums_are_those_of_the_rows(tmp_path: Path, home: Path) -> None:
    """Whatever the blocks in which they were read, and whatever was copied twice: equal rows, equal checksums."""
    with Queue() as queue:
        queue.enqueue_many([f"echo {n}" for n in range(MANY)])

        def write(what: str, done: int, _rows: int) -> None:
            if what == "checking" and queue.get("job7").priority == 0 and done > MANY + 600:
                queue.edit("job7", priority=1)

        first = queue.copy_to(str(tmp_path / "a.db"), tell=write)
        assert 1 == queue.get("job7").priority
        second = queue.copy_to(str(tmp_path / "b.db"))
        again = queue.copy_to(str(tmp_path / "b.db"))
        queue.edit("job7", priority=2)
        other = queue.copy_to(str(tmp_path / "c.db"))

    assert first.checksums == second.checksums == again.checksums
    assert again.already
    assert {"jobs"} == {name for name, number in other.checksums.items() if number != first.checksums[name]}


def test_what_is_no_target(places: Tuple[str, str], cli: Cli) -> None:
    """A store with jobs, the store itself, the unfinished copy of another: a sentence each, nothing changed."""
    source, target = places
    with Queue(source) as queue, Queue(target) as other:
        queue.enqueue("true")
        other.enqueue("true")
        for where, why in ((target, "is not empty, so nothing was copied into it"), (source, "is the store itself")):
            with pytest.raises(QueuectlError, match=why):
                queue.copy_to(where)
        assert 1 == sum(other.status().jobs.values())
        other.reset()
        other.store.register(this_process("w1", other.store))
        with pytest.raises(Refused, match="workers are running on it"):
            queue.copy_to(target)
        other.store.unregister("w1")
        other.store.port().begin("somebody")
        with pytest.raises(QueuectlError, match="is an unfinished copy of another store .id somebody, not"):
            queue.copy_to(target)
    with pytest.raises(StoreRefused, match="is an unfinished copy of another store"):
        Queue(target)
    assert "copy needs --to" in cli("--db", source, "copy").err


@pytest.mark.parametrize("release", ["older", "newer"])
def test_an_unfinished_copy_of_another_release(places: Tuple[str, str], release: str) -> None:
    """Its tables are others than this one knows: gone on with, a newer one's would bear this release's number."""
    source, target = places
    newest = f"(SELECT max(n) FROM queuectl.schema_version WHERE n < {UNFINISHED})"
    sql = {
        "older": f"DELETE FROM queuectl.schema_version WHERE n = {newest}",
        "newer": f"INSERT INTO queuectl.schema_version (n, checksum, applied_at) VALUES (1 + {newest}, 'x', 1.0)",
    }[release]
    with Queue(source) as queue, Queue(target) as other:
        queue.enqueue("true")
        other.store.port().begin(queue.store.store_id)
        if "://" in target:
            other.store._write(lambda run: run(sql))
        else:
            with other.store._write as db:
                db.execute(sql.replace("queuectl.", ""))

        with pytest.raises(StoreRefused, match="was started by another release of queuectl. Delete it"):
            queue.copy_to(target)


def test_who_has_the_target_open_cannot_write_to_it(places: Tuple[str, str]) -> None:
    """What was enqueued there meanwhile would be gone with the end of the copy. Then it is a store like any other."""
    source, target = places
    writes: List[Callable[[Queue], Any]] = [
        lambda other: other.enqueue("echo mine", id="mine"),
        lambda other: other.enqueue_many([{"command": "true", "queue": "new"}] * 3),
        lambda other: other.set_setting("max_lost", "7"),
        lambda other: other.pause("mail"),
        lambda other: other.cancel("job1"),
        lambda other: other.store.register(this_process("w1", other.store)),
        lambda other: other.reset(),
    ]
    refused = []
    with Queue(source) as queue, Queue(target) as other:
        queue.enqueue_many(["true"] * 600)

        def write(what: str, _done: int, _rows: int) -> None:
            if what == "copying" and not refused and other.store.port().count(TABLES[3]):
                for change in writes:
                    with pytest.raises(StoreRefused, match="is an unfinished copy of another store"):
                        change(other)
                    refused.append(change)

        queue.copy_to(target, tell=write)

        assert refused == writes
        assert rows_of(source) == rows_of(target)
        for change in writes[:5]:
            change(other)


def test_nor_can_those_who_call_its_sql_functions(tmp_path: Path) -> None:
    """They open no store, and see no mark."""
    with ENGINES["postgres"](tmp_path) as target, Queue(target) as other:
        from psycopg.errors import CheckViolation

        other.store.port().begin("somebody")
        with pytest.raises(CheckViolation, match="this_store_is_an_unfinished_copy"):
            shared_server().execute(f"SELECT {other.store.schema}.enqueue('true')")


def test_a_second_copy_takes_over(places: Tuple[str, str]) -> None:
    """The first is still at work when the same command is run again, and the copy finished and in use."""
    source, target = places
    with Queue(source) as queue, Queue(source) as again:
        queue.enqueue_many(["true"] * 600)
        rows: List[Any] = []

        def finish(what: str, _done: int, _rows: int) -> None:
            if what == "copying" and not rows:
                assert again.copy_to(target).resumed
                with Queue(target) as other:
                    other.cancel("job600")
                rows.append(rows_of(target))

        with pytest.raises(Refused, match="another 'queuectl copy' has meanwhile gone on with the copy in "):
            queue.copy_to(target, tell=finish)

    assert rows == [rows_of(target)]


def test_of_two_that_begin_at_once_one_goes_on(places: Tuple[str, str]) -> None:
    """Both have found an empty target; each write of the one that began first is refused."""
    source, target = places
    with Queue(source) as queue, Queue(target) as one, Queue(target) as other:
        queue.enqueue("true")
        first, second = one.store.port(), other.store.port()
        assert [False, True] == [first.begin(queue.store.store_id), second.begin(queue.store.store_id)]
        jobs = queue.store.port().rows(TABLES[3], None, None, None)

        with pytest.raises(Refused, match="has meanwhile gone on"):
            first.replace(TABLES[3], None, None, jobs)
        with pytest.raises(Refused, match="has meanwhile gone on"):
            first.finish(queue.store.port().numbers())
        assert 0 == second.count(TABLES[3])
        second.replace(TABLES[3], None, None, jobs)
        second.finish(queue.store.port().numbers())

    assert rows_of(source) == rows_of(target)


@pytest.mark.parametrize("then", ["counts", "numbers"])
def test_a_writer_that_takes_tables_in_another_order(
    tmp_path: Path, background: Any, eventually: Any, then: str
) -> None:
    """No deadlock with one that comes to the counts behind the jobs, as cancel does; any other is tried again."""
    with ENGINES["postgres"](tmp_path) as source, Queue(source) as queue:
        import psycopg

        queue.enqueue("true")
        schema = queue.store.schema
        with psycopg.connect(source.partition("?")[0]) as line:
            line.execute("SET deadlock_timeout = '1h'")  # it is the other who notices
            line.execute(f"UPDATE {schema}.jobs SET priority = 7")
            copy = background("--db", source, "copy", "--to", str(tmp_path / "b.db"))
            waits = f"SELECT 1 FROM pg_locks WHERE NOT granted AND relation = '{schema}.jobs'::regclass"
            eventually(lambda: shared_server().execute(waits))
            line.execute(f"LOCK TABLE {schema}.{then} IN ROW EXCLUSIVE MODE")
        assert (0, "") == (copy.wait().code, copy.err.partition("queuectl: from now on")[0])
        assert rows_of(source) == rows_of(str(tmp_path / "b.db"))


def test_blocks_of_large_rows_are_short(places: Tuple[str, str]) -> None:
    """Also behind many small ones: thousands of large rows at once would take gigabytes of memory."""
    source, target = places
    seen: Dict[str, List[int]] = {"copying": [0], "checking": []}
    with Queue(source) as queue:
        queue.enqueue_many(["true"] * 2_600 + ["#" + "x" * 100_000] * 200)
        queue.copy_to(target, tell=lambda what, done, _rows: seen[what].append(done))

    for done in seen.values():
        large = [after - before for before, after in zip(done, done[1:])][-4:]
        assert max(large) <= 1 + copying.BLOCK_BYTES // 100_000
    assert rows_of(source) == rows_of(target)


def test_it_shows_how_far_it_is(tmp_path: Path, cli: Cli, home: Path) -> None:
    """The bar's numbers only grow, to the end."""
    seen: List[Tuple[str, int, int]] = []
    with Queue() as queue:
        queue.enqueue_many(["true"] * 3000)
        queue.copy_to(str(tmp_path / "b.db"), tell=lambda *how: seen.append(how))

    assert ["copying", "checking"] == list(dict.fromkeys(what for what, _, _ in seen))
    assert sorted(done for _, done, _ in seen) == [done for _, done, _ in seen]
    assert seen[-1][1] == seen[-1][2]


def test_how_far_one_is_that_goes_on(tmp_path: Path, home: Path) -> None:
    """What was copied before is done: the numbers begin behind it, and come to the end."""
    seen: List[Tuple[str, int, int]] = []

    def interrupt(_what: str, done: int, _rows: int) -> None:
        if done > 2000:
            raise KeyboardInterrupt

    with Queue() as queue:
        queue.enqueue_many(["true"] * 3000)
        with pytest.raises(KeyboardInterrupt):
            queue.copy_to(str(tmp_path / "b.db"), tell=interrupt)
        assert queue.copy_to(str(tmp_path / "b.db"), tell=lambda *how: seen.append(how)).resumed

    assert 2500 < [done for what, done, _ in seen if what == "copying"][-2] <= 3000
    assert sorted(done for _, done, _ in seen) == [done for _, done, _ in seen]
    assert seen[-1][1] == seen[-1][2]
