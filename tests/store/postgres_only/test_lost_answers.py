"""The connection breaks while the server answers: what was done is found out, never done twice, never lost."""

from __future__ import annotations

import time

import pytest

from queuectl.errors import StoreUnavailable
from queuectl.job import JobFilter, Outcome
from tests.store.build import EVERYTHING, T0, claim_ids, completed, failed, spec, specs, stopped, worker


def again(call, timeout_s=10.0):
    """Repeat *call* as a worker does until the store is there again."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


# -- enqueue ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 6000])
def test_an_add_whose_answer_was_lost_is_found_and_not_repeated(store, far_store, proxy, count):
    """The jobs are stored, their ids come back, and the numbering goes on after them."""
    descriptions = [spec(id="own"), *specs(count - 1)] if count == 3 else specs(count)
    proxy.lose_next_answer()  # of BEGIN or of the one statement
    ids = far_store.add(descriptions, T0)

    assert count == len(set(ids))
    assert list(ids) == [job.id for job in store.jobs(EVERYTHING, limit=10_000)]
    assert store.add([spec()], T0) == [f"job{count if count == 3 else count + 1}"]


@pytest.mark.parametrize("name", [None, "own"])
def test_one_job_whose_answer_was_lost_is_returned_as_it_was_stored(store, far_store, proxy, name):
    """It is read from the store then."""
    proxy.lose_next_answer()  # of BEGIN or of the one statement

    job = far_store.add_one(spec(id=name), T0)

    assert [job] == store.jobs(EVERYTHING)


def test_a_job_that_was_stored_and_cannot_be_read_is_told_as_stored(store, monkeypatch):
    """Whoever took the error for a refusal would store it twice."""

    def get(job_id):
        raise StoreUnavailable("the server is away.")

    monkeypatch.setattr(store, "get", get)

    with pytest.raises(StoreUnavailable, match="own is stored, but could not be read: the server is away."):
        store.add_one(spec(id="own"), T0)
    assert {"own": "pending"} == store.states(["own"])


class CutAtCommit:
    """Cuts the connection after the *nth* COMMIT was sent, or before."""

    def __init__(self, store, proxy, before=False, nth=1):
        self._left = nth
        self._line = store._connected()
        self._execute = self._line.execute
        self._proxy = proxy
        self._before = before
        self._line.execute = self

    def __call__(self, sql, *rest, **more):
        self._left -= sql == "COMMIT"
        if sql == "COMMIT" and self._left == 0:
            if self._before:
                self._proxy.cut()
            else:
                self._proxy.lose_next_answer()
        return self._execute(sql, *rest, **more)


@pytest.mark.parametrize(("count", "nth"), [(2, 1), (6000, 2)])
def test_a_commit_whose_answer_was_lost_is_found_out(store, far_store, proxy, count, nth):
    """In a transaction of several statements as well, and in the second of a large batch."""
    CutAtCommit(far_store, proxy, nth=nth)

    ids = far_store.add(specs(count), T0)

    assert [f"job{number}" for number in range(1, count + 1)] == ids
    assert count == store.queues()[0].pending


@pytest.mark.parametrize(("count", "nth"), [(2, 1), (6000, 1), (6000, 2)])
def test_a_commit_that_never_arrived_stored_nothing(store, far_store, proxy, count, nth):
    """The caller is told so, no number is used up, and the next attempt succeeds."""
    CutAtCommit(far_store, proxy, before=True, nth=nth)

    with pytest.raises(StoreUnavailable, match="not stored. Try again"):
        far_store.add(specs(count), T0)

    assert [] == store.jobs(EVERYTHING)
    assert "job1" == far_store.add(specs(count), T0)[0]


def test_an_add_that_cannot_be_found_out_says_so(store, far_store, proxy, monkeypatch):
    """The server stays away: the message does not pretend to know."""
    from queuectl.db import postgres_add

    monkeypatch.setattr(postgres_add, "FIND_OUT_S", 0.2)
    proxy.lose_next_answer()
    monkeypatch.setattr(proxy, "_accept", lambda: proxy._listener.accept()[0].close())  # noqa: PLW0108

    with pytest.raises(StoreUnavailable, match="not known whether the job was stored"):
        far_store.add([spec()], T0)


# -- turns ------------------------------------------------------------------------------------


def test_what_a_lost_answer_claimed_is_put_back(store, far_store, proxy):
    """Nobody was told of these runs, so nobody runs them: they are pending again and cost no retry."""
    store.add(specs(3), T0)
    proxy.lose_next_answer()
    with pytest.raises(StoreUnavailable):
        far_store.claim("w1", 2, (), T0)
    assert 2 == len(store.runs_of("w1"))

    claims = again(lambda: far_store.claim("w1", 1, (), time.time() * 2))

    assert ["job1"] == claim_ids(claims)
    assert [Outcome.STOPPED, Outcome.RUNNING] == [run.state for run in store.runs("job1")]
    assert (0, 0, 2) == (claims[0].job.failures, claims[0].job.losses, claims[0].job.attempts)
    assert ("pending", 0, 0) == (store.get("job2").state, store.get("job2").failures, store.get("job2").losses)


def test_a_claim_that_arrives_late_is_put_back(store, far_store, proxy):
    """The network delivers it after the worker had asked what it owns: it asks again when it looks for orders."""
    store.add(specs(2), T0)
    known = far_store.claim("w1", 1, (), T0)[0]
    proxy.delay_next_request()
    with pytest.raises(StoreUnavailable):
        far_store.claim("w1", 1, (), T0)
    again(lambda: far_store.claim("w1", 0, (), T0))
    proxy.deliver_late()
    assert ["job1", "job2"] == [job_id for job_id, _ in store.runs_of("w1")]

    orders = far_store.orders("w1")

    assert orders.known
    assert [("job1", known.run_id)] == store.runs_of("w1")
    assert ("pending", 0, 0) == (store.get("job2").state, store.get("job2").failures, store.get("job2").losses)


def test_runs_that_the_worker_knows_stay_its_own(store, far_store, proxy):
    """Only what the lost answer brought is put back."""
    store.add(specs(3), T0)
    known = far_store.claim("w1", 1, (), T0)[0]
    proxy.lose_next_answer()
    with pytest.raises(StoreUnavailable):
        far_store.claim("w1", 1, (), T0)

    answer = again(lambda: far_store.finish("w1", [completed(known)], now=T0))

    assert [True] == answer.accepted
    assert [] == store.runs_of("w1")
    assert ["completed", "pending", "pending"] == [store.get(f"job{number}").state for number in (1, 2, 3)]


@pytest.mark.parametrize("before", [False, True], ids=["answer lost", "request lost"])
def test_what_was_given_back_without_an_answer_is_not_begun(store, far_store, proxy, before):
    """Of the jobs claimed ahead the last are given back; if that was done, others run them by then."""
    store.add(specs(3), T0)
    far_store._plenty_until_s = time.monotonic() + 60
    CutAtCommit(far_store, proxy, before)

    claims = far_store.finish("w1", (), 1, (), T0, ahead=3).claims
    others = store.claim("w2", 3, (), T0)

    assert ["job1"] == claim_ids(claims)
    assert ([] if before else ["job2", "job3"]) == claim_ids(others)
    again(lambda: far_store.claim("w1", 0, (), T0))
    assert [("job1", claims[0].run_id)] == store.runs_of("w1")


@pytest.mark.parametrize("lose", ["lose_next_answer", "delay_next_request"])
def test_whoever_hands_in_for_a_dead_worker_puts_nothing_back(store, far_store, proxy, lose):
    """It is told of none of that worker's runs: an end that was noted still counts, and the other run is lost."""
    store.add(specs(2), T0)
    noted, lost = store.claim("w1", 2, (), T0)
    store.condemn("w1", 100.0)
    getattr(proxy, lose)()
    with pytest.raises(StoreUnavailable):
        far_store.finish("w1", [completed(noted)], now=T0)

    answer = again(lambda: far_store.finish("w1", [completed(noted)], now=T0))
    proxy.deliver_late()

    assert [True] == answer.accepted
    assert "completed" == store.get("job1").state
    assert [("job2", lost.run_id)] == store.runs_of("w1")
    assert [("job2", "pending")] == far_store.release_lost("w1", 3, T0)
    assert [Outcome.LOST] == [run.state for run in store.runs("job2")]


@pytest.mark.parametrize("end", [completed, failed, stopped])
@pytest.mark.parametrize("count", [0, 1])
def test_an_end_whose_answer_was_lost_counts_once_and_as_accepted(store, far_store, proxy, end, count):
    """Sent again, it is refused by the fence; but the run has just this end, so the worker is told the truth."""
    store.add(specs(2, priority=1), T0)
    claim = far_store.claim("w1", 1, (), T0)[0]
    proxy.lose_next_answer()
    with pytest.raises(StoreUnavailable):
        far_store.finish("w1", [end(claim, T0)], count, (), T0)

    answer = again(lambda: far_store.finish("w1", [end(claim, T0)], 0, (), T0))

    assert [True] == answer.accepted
    assert [] == store.runs_of("w1")
    assert int(end is failed) == store.get("job1").failures
    assert ["pending"] == [store.get("job2").state]


def test_an_end_may_lose_its_answer_twice(store, far_store, proxy):
    """However often it is sent, it counts once and is told as accepted."""
    store.add(specs(3), T0)
    claim = far_store.claim("w1", 1, (), T0)[0]
    for _ in range(3):
        proxy.lose_next_answer()
        with pytest.raises(StoreUnavailable):
            again(lambda: far_store.finish("w1", [completed(claim, T0)], 1, (), T0), 0)
        proxy.cut()

    answer = again(lambda: far_store.finish("w1", [completed(claim, T0)], 1, (), T0))

    assert ([True], 1) == (answer.accepted, len(answer.claims))
    assert [answer.claims[0].run_id] == [run_id for _, run_id in store.runs_of("w1")]


def test_a_claim_under_a_limit_whose_commit_was_lost_is_put_back(store, far_store, proxy):
    """It takes a transaction of several statements, and is not told either."""
    store.add(specs(3), T0)
    store.set_limit("default", 2)
    CutAtCommit(far_store, proxy)
    with pytest.raises(StoreUnavailable):
        far_store.claim("w1", 5, (), T0)
    assert 2 == len(store.runs_of("w1"))

    claims = again(lambda: far_store.claim("w1", 5, (), T0))

    assert sorted(run_id for _, run_id in store.runs_of("w1")) == [claim.run_id for claim in claims]
    assert 2 == len(claims)


def test_what_was_claimed_before_the_trouble_is_told(store, far_store, proxy, monkeypatch):
    """Fifty jobs take two statements: the answer to the second is lost, the jobs of the first are handed out."""
    from queuectl.db.postgres_claim import Turn

    store.add(specs(50), T0)
    send = Turn._send

    def second_is_lost(turn, *rest, **more):
        if turn.claims:
            proxy.lose_next_answer()
        return send(turn, *rest, **more)

    monkeypatch.setattr(Turn, "_send", second_is_lost)
    claims = far_store.claim("w1", 50, (), T0)
    monkeypatch.undo()

    assert (32, 50) == (len(claims), len(store.runs_of("w1")))
    more = again(lambda: far_store.claim("w1", 50, (), T0 + 1e9))
    assert 18 == len(more)
    assert {run_id for _, run_id in store.runs_of("w1")} == {claim.run_id for claim in [*claims, *more]}


def test_an_end_that_was_never_done_is_done_when_sent_again(store, far_store, proxy):
    """The connection was cut before the server got it."""
    store.add([spec()], T0)
    claim = far_store.claim("w1", 1, (), T0)[0]
    proxy.cut()

    answer = again(lambda: far_store.finish("w1", [completed(claim)], now=T0))

    assert ([True], "completed") == (answer.accepted, store.get("job1").state)


def test_an_end_sent_again_after_the_job_was_taken_away_is_refused(store, far_store, proxy):
    """Doubt does not make a stale result good, not even one of the very instant at which the run was given up."""
    store.add([spec()], T0)
    claim = far_store.claim("w1", 1, (), T0)[0]
    proxy.freeze()
    far_store.be_patient(1.5)
    with pytest.raises(StoreUnavailable):
        far_store.finish("w1", [completed(claim, T0 + 1)], now=T0)
    store.condemn("w1", 100.0)
    store.release_lost("w1", 3, T0 + 1)
    proxy.cut()
    proxy.thaw()

    answer = again(lambda: far_store.finish("w1", [completed(claim, T0 + 1)], now=T0))

    assert ([False], "pending") == (answer.accepted, store.get("job1").state)


def test_a_worker_that_leaves_puts_back_what_it_was_not_told(store, far_store, proxy):
    """No run is left to be found lost later."""
    store.add([spec()], T0)
    proxy.lose_next_answer()
    with pytest.raises(StoreUnavailable):
        far_store.claim("w1", 1, (), T0)

    again(lambda: far_store.unregister("w1"))

    assert ([], "pending", 0) == (store.ownerless(), store.get("job1").state, store.get("job1").losses)


def test_output_is_written_once_however_often_it_is_sent(store, far_store, proxy):
    """A write that may have been done is repeated by the worker, and replaces itself."""
    store.add([spec()], T0)
    run_id = store.claim("w1", 1, (), T0)[0].run_id
    proxy.lose_next_answer()
    with pytest.raises(StoreUnavailable):
        far_store.append_output(run_id, [(0, b"once"), (4, b"!")])

    again(lambda: far_store.append_output(run_id, [(0, b"once"), (4, b"!")]))

    assert [(0, b"once"), (4, b"!")] == store.output(run_id)


# -- everything else --------------------------------------------------------------------------


def test_a_look_is_repeated_by_itself(store, far_store, proxy):
    """Nothing can be done twice by looking."""
    store.add([spec()], T0)
    proxy.lose_next_answer()

    assert "job1" == far_store.get("job1").id


def test_a_change_begins_again_over_a_connection_that_broke_while_idle(store, far_store, proxy):
    """A server that was restarted in the night is no reason to fail in the morning."""
    for change in (
        lambda: far_store.add([spec()], T0),
        lambda: far_store.cancel(["job1"], T0),
        lambda: far_store.retry(["job1"], now=T0),
        lambda: far_store.set_setting("lease", "20"),
        lambda: far_store.register(worker("w3")),
        lambda: far_store.claim("w3", 1, (), T0),
        lambda: far_store.unregister("w3"),
    ):
        proxy.cut()
        time.sleep(0.02)
        change()

    store.release_lost("w3", 3, T0)


def test_a_change_whose_commit_was_lost_says_that_it_is_not_known(store, far_store, proxy):
    """It is not repeated: the user looks."""
    store.add([spec()], T0)
    CutAtCommit(far_store, proxy)

    with pytest.raises(StoreUnavailable, match="not known whether the change was made"):
        far_store.cancel(["job1"], T0)

    assert {"job1": "cancelled"} == far_store.states(["job1"])
    assert 1 == far_store.prune(JobFilter())


def test_a_worker_is_not_kept_waiting_by_a_silent_server(store, far_store, proxy):
    """With a lease of 6 s no call may take long, and when the network is back the next one goes through."""
    far_store.register(worker("w3", lease_expires_at=T0 + 6))
    proxy.freeze()
    begin = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            far_store.renew("w3", 6.0, 1.0)
    took_s = time.monotonic() - begin
    proxy.cut()
    proxy.thaw()

    assert 0.9 <= took_s <= 6.0  # all twenty within one lease
    assert again(lambda: far_store.renew("w3", 6.0, 2.0))
    before, far, after = store.now(), far_store.now(), store.now()
    assert before - 0.5 < far < after + 0.5


def test_the_time_is_known_while_the_server_is_away(store, far_store, proxy):
    """A run's end needs one."""
    far_store.register(worker("w3"))
    before = store.now()
    proxy.freeze()

    assert before - 0.1 <= far_store.now() <= before + 5
    proxy.thaw()
