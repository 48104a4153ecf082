"""No verb reads a whole table: what the server really did is looked at, statement by statement.

The server's own auto_explain reports each statement of the store's connection with its plan and the rows it touched.
The table is large, and it has grown since the plans were made: that is when a wrong plan hurts.
"""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from queuectl import Queue
from queuectl.db import open_store
from queuectl.job import JobFilter
from tests.postgres_server import fresh_schema, shared_server
from tests.store.build import T0, bring_to, completed, failed, spec, specs, worker
from tests.store.test_hooks import BOTH

READY, WAITING, ENDED, HELD = 20_000, 20_000, 20_000, 2_000

GROW = """
INSERT INTO {s}.jobs (id, queue, state, ready, priority, run_at, created_at, updated_at, ended_at, max_retries,
                      command, cwd, last_run_id, run_no)
SELECT kind || number, CASE WHEN number %% 10 = 0 THEN 'other' ELSE 'default' END, state::{s}.job_state,
       ready, 0, due, 0, 0, ended, 3, 'true', '/', run_id, runs
  FROM (SELECT 'ready' AS kind, n AS number, 'pending' AS state, 1 AS ready, 5::float8 + n AS due,
               NULL::float8 AS ended, NULL::bigint AS run_id, 0 AS runs FROM generate_series(1, %s) AS n
        UNION ALL
        SELECT 'waits', n, 'failed', 2, 4e9 + n, NULL, NULL, 0 FROM generate_series(1, %s) AS n
        UNION ALL
        SELECT 'ended', n, 'completed', 0, 1, 10 + n, 1000000 + n, 1 FROM generate_series(1, %s) AS n) AS fresh
"""
# Each needs ten of those that are ready.
GROW_HELD = """
WITH held AS (
    INSERT INTO {s}.jobs (id, queue, ready, priority, run_at, not_before, created_at, updated_at, max_retries, command,
                          cwd)
    SELECT 'held' || n, 'default', 2, 0, 253402214400, 5, 0, 0, 3, 'true', '/' FROM generate_series(1, %s) AS n
    RETURNING seq)
INSERT INTO {s}.needs (on_seq, seq)
SELECT j.seq, h.seq
  FROM (SELECT seq, row_number() OVER (ORDER BY seq) AS place FROM held) AS h
 CROSS JOIN generate_series(1, 10) AS n
  JOIN {s}.jobs AS j ON j.id = 'ready' || ((h.place - 1) * 10 + n)
"""
GROW_RUNS = """
INSERT INTO {s}.runs (run_id, number, state, started_at, ended_at, worker_id, host)
SELECT 1000000 + n, 1, 'completed', 1, 10 + n, 'w0', 'h' FROM generate_series(1, %s) AS n
"""
GROW_COUNTS = """
INSERT INTO {s}.counts (queue, shard, pending, failed, completed)
SELECT queue, -1, count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'failed'),
       count(*) FILTER (WHERE state = 'completed')
  FROM {s}.jobs WHERE token IS NULL AND left(id, 5) <> 'hook-' GROUP BY queue
"""
GROWTH = [
    (GROW, (READY, WAITING, ENDED)),
    (GROW_HELD, (HELD,)),
    (GROW_RUNS, (ENDED,)),
    (GROW_COUNTS, ()),
    ("INSERT INTO {s}.queues (name) VALUES ('other') ON CONFLICT DO NOTHING", ()),
]


def walk(plan):
    """Yield the nodes of a plan."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from walk(inner)


class Watch:
    """Collects the plans of what a store's connection runs."""

    def __init__(self, store):
        self.plans = []
        line = store._connected()
        try:
            line.execute("LOAD 'auto_explain'")
        except Exception as error:
            pytest.skip(f"this server has no auto_explain: {error}")
        line.execute("SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on")
        line.execute("SET auto_explain.log_nested_statements = on")  # those of the functions
        line.execute("SET auto_explain.log_timing = off; SET auto_explain.log_format = json")
        line.execute("SET auto_explain.log_level = notice; SET client_min_messages = notice")
        line.add_notice_handler(self._take)
        self.plans.clear()

    def _take(self, notice):
        text = notice.message_primary or ""
        if "plan:" in text:
            self.plans.append(json.loads(text.partition("plan:")[2]))

    def rows_touched(self):
        """Return how many rows of jobs, runs and output were read since the last call, and how."""
        touched, how = 0, []
        for plan in self.plans:
            for node in walk(plan["Plan"]):
                if node.get("Relation Name") in ("jobs", "runs", "output", "needs") and "Scan" in node["Node Type"]:
                    loops = node["Actual Loops"]
                    rows = node["Actual Rows"] + sum(
                        count for name, count in node.items() if name.startswith("Rows Removed by")
                    )
                    touched += rows * loops
                    how.append((node["Node Type"], node.get("Index Name"), rows, loops))
        self.plans.clear()
        return touched, how


@pytest.fixture(scope="module")
def grown():
    """A store, its watch and its schema: its plans were made when it was small, and it has grown since.

    Its sessions begin with a setting that would keep the server from the indexes.
    """
    server = shared_server()
    with fresh_schema(server) as url:
        store = open_store(url + "&options=-cenable_indexscan%3Doff")
        store.register(worker("w1"))
        watch = Watch(store)
        # Never analyzed; then known to be of one page; then known to be of a thousand rows.
        for count in (0, 10, 1000):
            if count:
                store.add(specs(count), T0)
                server.execute(f"ANALYZE {store.schema}.jobs")
            for verb in VERBS.values():  # six times: then the server keeps a plan for good
                for _ in range(6):
                    verb(store)
        for sql, parameters in GROWTH:
            server.execute(sql.replace("{s}", store.schema), *parameters)
        assert [] == store.check()
        yield store, watch, server
        store.close()


@pytest.fixture
def watch(grown):
    """The watch, which has seen nothing yet."""
    grown[1].plans.clear()
    return grown[1]


@pytest.fixture
def store(grown):
    """The large store."""
    yield grown[0]
    assert [] == grown[0].check()


def claim_and_finish(store, queues=()):
    """One job's whole way."""
    claims = store.claim("w1", 1, queues, T0)
    ends = [completed(claim, T0) for claim in claims]
    more = store.finish("w1", ends, 1, queues, T0, [(claim.run_id, [(0, b"out")], None) for claim in claims])
    store.finish("w1", [failed(claim, T0, T0 + 1e9) for claim in more.claims], now=T0)


def batch(store):
    """Many at once."""
    claims = store.claim("w1", 40, (), T0)
    store.finish("w1", [completed(claim, T0) for claim in claims], 0, (), T0)


def on_and_on(store):
    """Turns that go on from where the last one was: by the server's clock."""
    claims = store.claim("w1", 1, ("default",))
    for count in (1, 1, 5, 5, 0):
        claims = store.finish("w1", [completed(claim, T0) for claim in claims], count, ("default",)).claims


def of_lines(store):
    """Turns of a worker of two queues: without a place in them, then from there."""
    claims = store.claim("w1", 1, ("default", "other"))
    for _ in range(3):
        claims = store.finish("w1", [completed(claim, T0) for claim in claims], 1, ("default", "other")).claims
    store.finish("w1", [completed(claim, T0) for claim in claims])


def limited(store):
    """A claim under a limit."""
    store.set_limit("default", 5)
    claims = store.claim("w1", 1, (), T0)
    store.set_limit("default", None)
    store.finish("w1", [completed(claim, T0) for claim in claims], now=T0)


def cancel_and_retry(store):
    """What users do."""
    job_id = store.add([spec(delay_s=10.0)], T0)[0]
    store.edit(job_id, {"priority": -5}, T0)
    store.cancel([job_id], T0)
    store.retry([job_id], now=T0)


def hold_and_let_go(store):
    """Jobs that wait for others, from their enqueue to their release; one is cancelled and retried meanwhile."""
    [needed] = store.add([spec(priority=2**31 - 1)], T0)
    held = store.add([spec(after=[needed]) for _ in range(3)], T0)
    store.cancel(held[:1], T0)
    store.retry(held[:1], now=T0)
    store.edit(held[1], {"after": ["ready1"] if store.get("ready1") else [needed]}, T0)
    assert {needed} >= {name for name, _ in store.needs(held[0])}
    assert held[0] in store.needed_by(needed)
    assert {} == store.stuck(held)
    [claim] = store.claim("w1", 1, ("default",), T0)
    assert needed == claim.job.id
    store.finish("w1", [completed(claim, T0)], now=T0)
    assert not store.get(held[0]).held
    store.cancel(held, T0)
    store.prune(JobFilter(("cancelled",)), 3)


def promote(store):
    """Jobs whose time has come."""
    store.add(specs(3, delay_s=1.0), T0)
    claims = store.claim("w1", 3, ("default",), T0 + 1)
    store.finish("w1", [completed(claim, T0) for claim in claims], now=T0)


def lose(store):
    """A worker that dies with a job."""
    store.register(worker("dying"))
    store.claim("dying", 1, ("default",), T0)
    store.condemn("dying", 100.0)
    store.release_lost("dying", 3, T0)


def hook(store):
    """Ends that have hooks, one and several, and a job that is lost too often."""
    store.add(specs(4, priority=2**31 - 1), T0)
    claims = store.claim("w1", 3, ("default",), T0)
    store.finish("w1", [completed(claims[0], T0)], now=T0, hooks=BOTH)
    store.finish("w1", [completed(claim, T0) for claim in claims[1:]], now=T0, hooks=BOTH)
    store.register(worker("dying"))
    claims += store.claim("dying", 1, ("default",), T0)
    store.condemn("dying", 100.0)
    store.release_lost("dying", 1, T0, BOTH)
    store.cancel([f"hook-{claim.run_id}" for claim in claims], T0)
    store.prune(JobFilter(("cancelled",)), 4)


VERBS = {
    "claim from one queue": lambda store: claim_and_finish(store, ("default",)),
    "claim from all queues": claim_and_finish,
    "claim a batch": batch,
    "claim on and on": on_and_on,
    "claim from two queues": of_lines,
    "claim under a limit": limited,
    "add one": lambda store: store.add([spec()], T0),
    "add a batch": lambda store: store.add([spec(id=None), *specs(2)], T0),
    "next_due": lambda store: store.next_due((), T0),
    "next_due of one queue": lambda store: store.next_due(("nothing here",), T0),
    "oldest_due": lambda store: store.oldest_due(T0),
    "work_left": lambda store: store.work_left(),
    "queues": lambda store: store.queues(),
    "orders": lambda store: store.orders("w1"),
    "news": lambda store: store.news("w1", True),
    "ownerless": lambda store: store.ownerless(),
    "one job": lambda store: (store.get("job1"), store.runs("job1"), store.states(["job1", "job2"])),
    "a page": lambda store: store.jobs(JobFilter(), 0, 10),
    "a page of the dead": lambda store: store.jobs(JobFilter(("dead",)), 0, 10),
    "a page of the running": lambda store: store.jobs(JobFilter(("processing",)), 0, 10),
    "a page of the waiting": lambda store: store.jobs(JobFilter(("pending", "failed")), 0, 10),
    "cancel, edit, retry": cancel_and_retry,
    "lose a worker": lose,
    "promote": promote,
    "hold and let go": hold_and_let_go,
    "hook": hook,
    "a page of the ended": lambda store: store.jobs(JobFilter(("completed",)), 0, 10),
    "a page of the cancelled and dead": lambda store: store.jobs(JobFilter(("cancelled", "dead"), ("other",)), 0, 10),
    "the newest of the cancelled and dead": lambda store: store.jobs(
        JobFilter(("cancelled", "dead")), 0, 10, None, True
    ),
    "prune the dead": lambda store: store.prune(JobFilter(("dead",)), 10),
    "cancel what runs": lambda store: store.cancel_where(JobFilter(("processing",)), T0),
    "retry all dead": lambda store: store.retry_where(JobFilter(("dead",)), T0),
    "prune": lambda store: store.prune(JobFilter(ended_before=11.0), 10),
    "prune what there is none of": lambda store: store.prune(JobFilter(("dead",), ended_before=9.0), 10),
}
#: Rows of jobs and runs that one call may read. next_due looks ahead a thousand waiting jobs at most.
MOST = {"work_left": HELD + 300, "next_due": 1100, "next_due of one queue": 1100, "claim a batch": 600}


@pytest.mark.parametrize("name", sorted(VERBS))
def test_a_verb_reads_few_rows_however_many_there_are(store, watch, name):
    """Its plan was made when the tables were small; now they are not, and it still finds its rows by an index."""
    VERBS[name](store)
    touched, how = watch.rows_touched()

    assert touched <= MOST.get(name, 300), how


@pytest.mark.parametrize("index", ["jobs_ready", "jobs_waiting", "jobs_owned", "jobs_ended", "jobs_listed"])
def test_these_tests_notice_a_missing_index(grown, watch, index):
    """Without it some verb reads tens of thousands of rows; ``check`` names it too."""
    store, _, server = grown
    find = "SELECT indexdef FROM pg_indexes WHERE schemaname = %s AND indexname = %s"
    definition = server.execute(find, store.schema, index)[0][0]
    server.execute(f"DROP INDEX {store.schema}.{index}")
    try:
        most = 0
        for name, verb in VERBS.items():
            verb(store)
            most = max(most, watch.rows_touched()[0] - MOST.get(name, 300))
        problems = [problem.what for problem in store.check()]
    finally:
        server.execute(definition)

    assert most > 10_000
    assert [f"the index {index} is missing or incomplete"] == problems


def test_a_sorted_listing_is_sorted_once(store, watch):
    """Not for each page of a thousand jobs; and each job is read once more, to be shown."""
    queue = Queue(store.location)
    with closing(queue):
        looking = Watch(queue.store)

        listed = sum(1 for _ in queue.jobs(None, None, "priority"))

        touched, how = looking.rows_touched()
    assert listed > READY + WAITING + ENDED
    assert touched <= 2 * listed, how


def test_a_prune_in_many_steps_walks_once(store, watch):
    """And once more, to see that nothing is left; not from the first job on in each of its steps."""
    names = [bring_to(store, "completed", f"rare{number}", queue="rare") for number in range(20)]
    watch.rows_touched()

    steps = list(iter(lambda: store.prune(JobFilter(("completed",), ("rare",)), 1), 0))

    touched, how = watch.rows_touched()
    assert len(names) == len(steps)
    assert touched <= 3 * (READY + WAITING + ENDED), how


def test_an_output_of_many_parts_is_read_from_where_it_is_wanted(store, watch):
    """A page costs as much at the end as at the begin: whoever reads all of it does not walk from the first part on."""
    run_id = 1_000_000 + 7
    store.append_outputs([(run_id, [(2 * number, b"xy") for number in range(5000)], None)])
    watch.rows_touched()

    for start in (0, 5000, 9980):
        assert 10 == len(store.output(run_id, start, 10))
        touched, how = watch.rows_touched()
        assert touched <= 20, how


def test_ahead_of_stops_counting_at_a_thousand(store, watch):
    """The last of twenty thousand costs no more than the thousandth."""
    last = store.jobs(JobFilter(("pending",), ("default",)), HELD, 1, "run_at", True)[0]
    watch.rows_touched()

    assert 1000 == store.ahead_of(last)
    assert watch.rows_touched()[0] <= 1000


def test_what_is_ahead_of_a_job_is_counted_without_what_is_behind_it(store, watch):
    """The first of twenty thousand."""
    first = store.jobs(JobFilter(("pending",), ("default",)), 0, 1, "run_at")[0]
    watch.rows_touched()

    assert 0 == store.ahead_of(first)
    touched, how = watch.rows_touched()
    assert touched <= 100, how


def test_the_last_to_end_are_found_without_sorting_all(store, watch, monkeypatch):
    """Of all jobs, and of a queue."""
    monkeypatch.setattr("queuectl.db.postgres_views.NEWEST_ENDS", 1000)
    for which in (JobFilter(), JobFilter(("completed",), ("other",))):
        watch.rows_touched()

        jobs = store.jobs(which, 0, 10, "ended_at", True)

        touched, how = watch.rows_touched()
        assert touched <= 2000, how
        assert sorted((job.ended_at for job in jobs), reverse=True) == [job.ended_at for job in jobs]
        assert 10 == len(jobs)


def test_what_is_let_go_is_found_by_its_number(store, watch):
    """Not by walking through all jobs that wait, each compared with every number: nothing counts these."""
    [needed] = store.add([spec(priority=2**31 - 1)], T0)
    held = store.add([spec(after=[needed], delay_s=1e8) for _ in range(20)], T0)
    [claim] = store.claim("w1", 1, ("default",), T0)
    watch.plans.clear()
    store.finish("w1", [completed(claim, T0)], now=T0)

    assert not any(store.get(job_id).held for job_id in held)
    lets_go = [plan for plan in watch.plans if "not_before = NULL" in plan["Query Text"]]
    used = {node.get("Index Name") for plan in lets_go for node in walk(plan["Plan"]) if "Scan" in node["Node Type"]}
    store.cancel(held, T0)
    store.prune(JobFilter(("cancelled",)), 20)
    assert used == {"jobs_pkey", "needs_of"}
