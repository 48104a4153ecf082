"""``append_outputs`` and ``output``: a run's bytes, in parts, with the middle cut out when there are too many."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.build import EVERYTHING, T0, bring_to, completed, spec, specs


@pytest.fixture
def run_id(store):
    """A run that w1 owns."""
    bring_to(store, "processing")
    return store.get("job1").run_id


def test_a_run_has_no_output_until_it_prints(store, run_id):
    """No parts for a silent run, and none for one that does not exist."""
    assert ([], []) == (store.output(run_id), store.output(run_id + 1000))


def test_parts_come_back_in_order(store, run_id):
    """Parts appended over several calls come back by where they start, byte for byte."""
    store.append_output(run_id, [(0, b"\x00\xff"), (2, b"\r\n")])
    store.append_output(run_id, [(4, b"end")])

    assert [(0, b"\x00\xff"), (2, b"\r\n"), (4, b"end")] == store.output(run_id)


def test_runs_do_not_share_output(store):
    """Several runs' parts may be written in one call; each run has its own."""
    store.add(specs(2), T0)
    first, second = (claim.run_id for claim in store.claim("w1", 2, (), T0))

    store.append_outputs([(first, [(0, b"one")], None), (second, [(0, b"two")], None)])
    store.append_outputs([])

    assert ([(0, b"one")], [(0, b"two")]) == (store.output(first), store.output(second))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0, [(0, b"abc"), (3, b"def"), (9, b"ghi")]),
        (2, [(2, b"c"), (3, b"def"), (9, b"ghi")]),
        (3, [(3, b"def"), (9, b"ghi")]),
        (6, [(9, b"ghi")]),
        (8, [(9, b"ghi")]),
        (11, [(11, b"i")]),
        (12, []),
        (99, []),
    ],
)
def test_output_may_be_read_from_an_offset(store, run_id, start, expected):
    """Who follows a run asks for what it has not seen: within a part, between parts, beyond the end."""
    store.append_output(run_id, [(0, b"abc"), (3, b"def"), (9, b"ghi")])

    assert expected == store.output(run_id, start)


def test_the_old_tail_makes_way_for_the_new_one(store, run_id):
    """Parts that start in the given range are deleted first; those before and behind it stay."""
    store.append_output(run_id, [(0, b"head"), (4, b"tail"), (8, b"more"), (12, b"most")])

    store.append_output(run_id, [(20, b"last")], (4, 12))

    assert [(0, b"head"), (12, b"most"), (20, b"last")] == store.output(run_id)


def test_replacing_touches_one_run_only(store):
    """Another run's parts at the same offsets stay."""
    store.add(specs(2), T0)
    first, second = (claim.run_id for claim in store.claim("w1", 2, (), T0))
    store.append_outputs([(first, [(0, b"a"), (5, b"b")], None), (second, [(0, b"a"), (5, b"b")], None)])

    store.append_outputs([(first, [(9, b"c")], (5, 9))])

    assert ([(0, b"a"), (9, b"c")], [(0, b"a"), (5, b"b")]) == (store.output(first), store.output(second))


HEAD = [(0, b"head"), (4, b"tail"), (8, b"more")]


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([(HEAD, None), ([(12, b"last")], None)], [*HEAD, (12, b"last")]),
        ([(HEAD, None), ([(20, b"last")], (4, 20))], [(0, b"head"), (20, b"last")]),
        ([(HEAD, None), ([(20, b"last")], (4, 8))], [(0, b"head"), (8, b"more"), (20, b"last")]),
        ([(HEAD, None), ([(8, b"MORE")], (8, 9))], [(0, b"head"), (4, b"tail"), (8, b"MORE")]),
        ([(HEAD, (0, 9)), ([(20, b"last")], (4, 20))], [(0, b"head"), (20, b"last")]),
        ([(HEAD, None), ([(20, b"x")], (4, 20)), ([(30, b"last")], (4, 30))], [(0, b"head"), (30, b"last")]),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_writes_of_one_run_take_effect_in_their_order(store, run_id, writes, expected, together):
    """One call with several, as after a flush that failed, leaves what a call for each would."""
    outputs = [(run_id, parts, gone) for parts, gone in writes]

    for call in [outputs] if together else [[output] for output in outputs]:
        store.append_outputs(call)

    assert expected == store.output(run_id)


def test_the_end_brings_output_that_replaces_what_comes_with_it(store):
    """``finish`` takes several writes of a run too, and leaves those of other runs alone."""
    store.add(specs(2), T0)
    first, second = store.claim("w1", 2, (), T0)
    outputs = [(first.run_id, HEAD, None), (second.run_id, HEAD, None), (first.run_id, [(20, b"last")], (4, 20))]

    store.finish("w1", [completed(first), completed(second)], now=T0, outputs=outputs)

    assert ([(0, b"head"), (20, b"last")], HEAD) == (store.output(first.run_id), store.output(second.run_id))


def test_a_part_written_again_replaces_itself(store, run_id):
    """A write that is repeated because its answer was lost does not double the output."""
    for _ in range(2):
        store.append_output(run_id, [(0, b"once"), (4, b"!")])

    assert [(0, b"once"), (4, b"!")] == store.output(run_id)


def test_output_outlives_the_run(store, run_id):
    """It stays when the run ends, when the job is started over, and when the worker is lost."""
    store.append_output(run_id, [(0, b"first")])
    store.condemn("w1", 100.0)
    store.release_lost("w1", 3, T0)
    again = store.claim("w2", 1, (), T0)[0]
    store.append_output(again.run_id, [(0, b"second")])
    store.finish("w2", [completed(again)], now=T0)
    store.retry(["job1"], now=T0)

    assert ([(0, b"first")], [(0, b"second")]) == (store.output(run_id), store.output(again.run_id))


def test_output_goes_with_its_job(store, run_id):
    """A pruned job leaves no output behind."""
    store.append_output(run_id, [(0, b"gone")])
    store.condemn("w1", 100.0)
    store.release_lost("w1", 1, T0)

    store.prune(EVERYTHING)

    assert [] == store.output(run_id)


def test_another_connection_sees_output_as_it_comes(store, run_id, open_again):
    """A follower elsewhere reads what is appended while the run goes on."""
    follower = open_again()
    seen = []
    for number in range(3):
        store.append_output(run_id, [(number, b"%d" % number)])
        seen += follower.output(run_id, number)

    assert [(0, b"0"), (1, b"1"), (2, b"2")] == seen


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=8), max_size=12), st.integers(0, 100), st.data())
def test_any_cut_into_parts_reads_as_the_same_bytes(store, pieces, start, data):
    """However the output was cut into parts and calls, reading from any offset gives its bytes from there."""
    store.add(specs(1), T0)
    run_id = store.claim("w1", 1, (), T0)[0].run_id
    whole = b"".join(pieces)
    offset = 0
    batch = []
    for piece in pieces:
        batch.append((offset, piece))
        offset += len(piece)
        if data.draw(st.booleans()):
            store.append_output(run_id, batch)
            batch = []
    store.append_output(run_id, batch)

    parts = store.output(run_id, start)

    assert whole[start:] == b"".join(piece for _, piece in parts)
    assert all(whole[at : at + len(piece)] == piece for at, piece in parts)


def test_an_output_is_read_page_by_page(store, run_id):
    """Each page begins behind the one before, also in the middle of a part; the last one is shorter."""
    store.append_output(run_id, [(3 * number, b"%03d" % number) for number in range(5)])

    assert [(0, b"000"), (3, b"001")] == store.output(run_id, 0, 2)
    assert [(7, b"02"), (9, b"003")] == store.output(run_id, 7, 2)
    assert [(12, b"004")] == store.output(run_id, 12, 2)
    assert 5 == len(store.output(run_id, 0, 5)) == len(store.output(run_id))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 12, 100])
def test_the_end_of_an_output_is_read_alone(store, size):
    """As many bytes as are wanted, over as many parts as they take, with the places where they stand."""
    store.add([spec(id="mine"), spec(id="silent")], T0)
    claim = store.claim("w1", 1, (), T0)[0]
    store.append_output(claim.run_id, [(0, b"ab"), (2, b"c"), (9, b"xyz")])
    store.append_output(claim.run_id, [(12 + number, b"%d" % number) for number in range(9)])
    whole = [
        (at + offset, bytes([byte])) for at, data in store.output(claim.run_id) for offset, byte in enumerate(data)
    ]

    parts = store.last_output("mine", size)
    by_run = store.last_output("other", size, claim.run_id)

    assert parts == by_run
    found = [(at + offset, bytes([byte])) for at, data in parts for offset, byte in enumerate(data)]
    assert whole[-size:] == found
    assert [] == store.last_output("silent", size) == store.last_output("nothing", size)
