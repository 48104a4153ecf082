"""Every history of the protocol that keeps a job from running twice at once, explored: ``python3 explorer.py --help``.

Workers on different hosts share a database over a link that loses requests and answers, and delivers requests late
that their sender has given up. They claim a job, renew their leases, run a copy of its command, hand in its end; each
may be paused between any two steps. A reaper takes the job of a worker whose lease is over; it cannot reach the other's
host, and may be paused between its own steps for as long as it likes. README.md says what is left out and why.

Held in every state that can be reached:

overlap   no two copies of the job's command are alive at the same time;
stale     no end is accepted from a run that does not own the job any more;
stuck     wherever it stands, the job comes to an end if from now on no answer is lost and nobody is paused.

Time goes in ticks, the same for all. A state is a tuple of small numbers; the search is breadth first, so that the
history shown for a violation is a shortest one.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

# What a worker is at.
OUT, IDLE, HAS, BUSY, DONE = "out", "idle", "has", "busy", "done"
# The calls that it makes.
ENTER, RENEW, CLAIM, LOOK, FINISH = "enter", "renew", "claim", "look", "finish"
ALIVE, LOST = "alive", "lost"
PENDING, PROCESSING, ENDED = "pending", "processing", "ended"


class Rules(NamedTuple):
    """The sizes of the model, and which protections it has."""

    lease: int = 4  # ticks
    margin: int = 2  # how long after the lease a job is not yet given away
    pause: int = 1  # the longest time between two steps of a worker; 0: no bound
    runs: int = 2  # after so many claims the job is not claimed again
    lives: int = 2  # how often a worker registers
    fence: bool = True  # an end must come from the run that owns the job
    self_fence: bool = True  # a worker ends its command when its lease is over by its own clock
    look_before_start: bool = True  # and does not start one then
    from_begin: bool = True  # a renewal counts from when it was sent, not from when its answer came
    clear_doubt: bool = True  # after a lost answer a worker asks what it owns
    ask_again: bool = True  # and later again: a request may arrive after that
    same_rate: bool = True  # the clocks of all hosts run at the same rate
    both: bool = False  # the second worker may be paused and cut off as well


class Call(NamedTuple):
    """A request on its way, or its answer."""

    kind: str
    age: int  # ticks since it was sent
    done: bool = False  # it has reached the database
    answer: int = 0  # what came of it: a run's number, or whether it was accepted
    life: int = 0  # of a late one: whose it was
    run: int = 0  # of a late end: which run's
    well: bool = True  # of a late end: how it ended


class Worker(NamedTuple):
    """One worker, as it sees itself, and its row in the database."""

    at: str = OUT
    run: int = 0  # the run that it holds
    well: bool = True  # whether that run's command ended by itself
    alive: bool = False  # whether a copy of the command runs
    doubt: bool = False  # a claim or an end got no answer
    call: Optional[Call] = None
    late: Optional[Call] = None  # a request given up that may yet arrive, once
    age: int = 0  # ticks since its last renewal, by its own reckoning
    lag: int = 0  # ticks since its last step
    life: int = 0  # its id: a new one each time it registers
    row: str = ""  # the row of that id: none, ALIVE or LOST
    row_age: int = 0  # ticks since the renewal that the database has


class State(NamedTuple):
    """Everything there is."""

    job: str
    run: int  # the number of the newest run
    owner: Tuple[int, int]  # (worker, life), (-1, 0) if it is not processing
    accepted: int  # the run whose end was accepted as the job's
    workers: Tuple[Worker, ...]
    reaper: Tuple[str, int, int, bool]  # what it does next, to whom, whether that one has not renewed since


Step = Tuple[str, State]
NOBODY = (-1, 0)
RESTS = ("see", -1, 0, True)


def first() -> State:
    """Return the state in which everything begins: a job waits, two workers have just registered."""
    worker = Worker(at=IDLE, life=1, row=ALIVE)
    return State(PENDING, 0, NOBODY, 0, (worker, worker), RESTS)


def with_worker(state: State, who: int, worker: Worker) -> State:
    """Return *state* with one worker changed."""
    return state._replace(workers=(*state.workers[:who], worker, *state.workers[who + 1 :]))


def steps(state: State, rules: Rules) -> Iterator[Step]:
    """Yield what may happen next."""
    for who in range(len(state.workers)):
        if who == 0 or rules.both:
            yield from _worker_steps(state, who, rules)
            yield from _arrivals(state, who, rules)
        else:
            yield from _healthy_steps(state, who, rules)
        if state.workers[who].alive:
            yield f"{who}: its command ends", _command_ends(state, who)
    yield from _reaper_steps(state, rules)
    if not rules.pause or all(worker.lag < rules.pause for worker in state.workers):
        yield "tick", _tick(state, rules)
        if not rules.same_rate:
            yield "tick that the workers' clocks do not count", _tick(state, rules, counted=0)


# -- time, commands ---------------------------------------------------------------------------


def _tick(state: State, rules: Rules, counted: int = 1) -> State:
    """Let one tick pass, which the workers' own clocks count or not; ages are counted as far as they matter."""
    over = rules.lease + 1
    workers = []
    for who, worker in enumerate(state.workers):
        if who > 0 and not rules.both:
            workers.append(worker)  # time is nothing to one that renews all the time
            continue
        call = worker.call
        if call is not None and call.kind in (ENTER, RENEW):
            call = call._replace(age=min(call.age + counted, over))
        workers.append(
            worker._replace(
                call=call,
                age=0 if worker.at == OUT else min(worker.age + counted, over),
                lag=min(worker.lag + 1, rules.pause),
                row_age=min(worker.row_age + 1, over + rules.margin) if worker.row == ALIVE else 0,
            )
        )
    return state._replace(workers=tuple(workers))


def _command_ends(state: State, who: int) -> State:
    """The command ends by itself; its worker sees that when it takes its next step."""
    return with_worker(state, who, state.workers[who]._replace(alive=False))


# -- a worker ---------------------------------------------------------------------------------


def _healthy_steps(state: State, who: int, rules: Rules) -> Iterator[Step]:
    """Yield the steps of a worker on a host that is always well: it claims and starts, and hands in, in one step."""
    worker = state.workers[who]
    if worker.at == IDLE and state.job == PENDING and state.run < rules.runs:
        run = state.run + 1
        busy = worker._replace(at=BUSY, run=run, alive=True)
        claimed = state._replace(job=PROCESSING, run=run, owner=(who, worker.life))
        yield f"{who}: claims and starts the command", with_worker(claimed, who, busy)
    if worker.at == BUSY and not worker.alive:
        if _may_finish(state, (who, worker.life), worker.run, rules):
            state = _accept(state, worker.run, worker.well)
        yield f"{who}: hands in the end", with_worker(state, who, worker._replace(at=IDLE, run=0))


def _worker_steps(state: State, who: int, rules: Rules) -> Iterator[Step]:
    """Yield the steps of one worker, which does one thing at a time: while it waits for an answer, nothing else."""
    worker = state.workers[who]._replace(lag=0)

    def then(what: str, changed: Worker) -> Step:
        return f"{who}: {what}", with_worker(state, who, changed)

    if worker.call is not None:
        yield from _answers(state, who, rules)
        return
    if worker.at == OUT:
        if worker.life < rules.lives:
            yield then("registers", worker._replace(call=Call(ENTER, 0), life=worker.life + 1))
        return
    over = worker.age > rules.lease
    if worker.at == BUSY and over and rules.self_fence:
        yield then("fences itself", worker._replace(at=DONE, alive=False, well=False))
        return
    if worker.at == HAS:
        if over and rules.look_before_start:
            yield then("does not start", worker._replace(at=DONE, well=False))
        else:
            yield then("starts the command", worker._replace(at=BUSY, alive=True, well=True))
        return
    if worker.at == BUSY and not worker.alive:
        yield then("sees the command's end", worker._replace(at=DONE))
    if worker.age > 0:
        yield then("sends a renewal", worker._replace(call=Call(RENEW, 0)))
    untold = state.owner == (who, worker.life) and state.run != worker.run
    if (worker.doubt and rules.clear_doubt) or (untold and rules.ask_again):
        yield then("asks what it owns", worker._replace(call=Call(LOOK, 0)))
    elif worker.at == IDLE and state.job != ENDED and state.run < rules.runs:
        yield then("sends a claim", worker._replace(call=Call(CLAIM, 0)))
    elif worker.at == DONE:
        yield then("sends the end", worker._replace(call=Call(FINISH, 0)))


def _answers(state: State, who: int, rules: Rules) -> Iterator[Step]:
    """Yield how a call ends for the worker: with its answer, or with a lost connection, whatever was done."""
    worker = state.workers[who]._replace(lag=0, call=None)
    call = state.workers[who].call
    assert call is not None
    lost = worker._replace(doubt=worker.doubt or call.kind in (CLAIM, FINISH))
    if not call.done and call.kind in (RENEW, CLAIM, FINISH):
        lost = lost._replace(late=Call(call.kind, 0, life=worker.life, run=worker.run, well=worker.well))
    yield f"{who}: {call.kind} gets no answer", with_worker(state, who, lost)
    if not call.done:
        return
    told = worker
    age = call.age if rules.from_begin else 0
    if call.kind == ENTER:
        told = worker._replace(at=IDLE, age=age, doubt=False, run=0)
    elif call.kind == RENEW and call.answer:
        told = worker._replace(age=age)
    elif call.kind == RENEW:  # condemned: it ends its command, drops its result, starts anew under another id
        told = worker._replace(at=OUT, run=0, alive=False, well=True, doubt=False, age=0, row="", row_age=0)
    elif call.kind == CLAIM and call.answer:
        told = worker._replace(at=HAS, run=call.answer, well=True)
    elif call.kind == LOOK:
        told = worker._replace(doubt=False)
    elif call.kind == FINISH:  # accepted or refused: either way it is rid of the run
        told = worker._replace(at=IDLE, run=0, well=True)
    yield f"{who}: {call.kind} is answered", with_worker(state, who, told)


# -- the database -----------------------------------------------------------------------------


def _arrivals(state: State, who: int, rules: Rules) -> Iterator[Step]:
    """Yield what the database does with a request that reaches it, in time or late: one transaction."""
    worker = state.workers[who]
    if worker.call is not None and not worker.call.done:
        call = worker.call._replace(life=worker.life, run=worker.run, well=worker.well)
        changed, answer = _answer(state, who, call, rules)
        told = changed.workers[who]._replace(call=worker.call._replace(done=True, answer=answer))
        yield f"{who}: {call.kind} reaches the database", with_worker(changed, who, told)
    if worker.late is not None:
        gone = with_worker(state, who, worker._replace(late=None))
        changed, _ = _answer(gone, who, worker.late, rules)
        yield f"{who}: {worker.late.kind} reaches the database late", changed


def _answer(state: State, who: int, call: Call, rules: Rules) -> Tuple[State, int]:
    """Do what a request asks for; return what the database is then, and its answer."""
    worker = state.workers[who]
    me = (who, call.life)
    here = worker.row == ALIVE and worker.life == call.life
    if call.kind == ENTER:
        return with_worker(state, who, worker._replace(row=ALIVE, row_age=0)), 0
    if call.kind == RENEW and here:
        reaper = state.reaper
        if reaper[1:3] == me:
            reaper = (*reaper[:3], False)
        return with_worker(state, who, worker._replace(row_age=0))._replace(reaper=reaper), 1
    if call.kind == CLAIM and here and state.job == PENDING and state.run < rules.runs:
        run = state.run + 1
        return state._replace(job=PROCESSING, run=run, owner=me), run
    if call.kind == LOOK and state.owner == me and state.run != call.run:
        return state._replace(job=PENDING, owner=NOBODY), 0  # claimed, but its worker was not told
    if call.kind == FINISH and _may_finish(state, me, call.run, rules):
        return _accept(state, call.run, call.well), 0
    return state, 0


def _may_finish(state: State, me: Tuple[int, int], run: int, rules: Rules) -> bool:
    """Say whether the database accepts the end of a run."""
    if not rules.fence:
        return state.job != ENDED
    return state.owner == me and state.run == run


def _accept(state: State, run: int, well: bool) -> State:
    """Write an end, and whose it was."""
    if not well:
        return state._replace(job=PENDING, owner=NOBODY)
    return state._replace(job=ENDED, owner=NOBODY, accepted=run)


def _reaper_steps(state: State, rules: Rules) -> Iterator[Step]:
    """Yield the steps of the reaper: it sees a lease that is over, condemns the worker, releases its job."""
    what, who, life, unchanged = state.reaper
    if what == "see":
        who, life = state.owner
        if who >= 0 and (state.workers[who].life != life or not state.workers[who].row):
            yield f"reaper: sees that {who} has gone", state._replace(reaper=("release", who, life, True))
        for other, worker in enumerate(state.workers):
            if worker.row == LOST or (worker.row and worker.row_age > rules.lease + rules.margin):
                yield (
                    f"reaper: sees that {other} is silent",
                    state._replace(reaper=("condemn", other, worker.life, True)),
                )
        return
    worker = state.workers[who]
    here = worker.life == life and worker.row != ""
    if what == "condemn":
        if not here or not unchanged:
            yield f"reaper: lets {who} be", state._replace(reaper=RESTS)
        else:
            lost = with_worker(state, who, worker._replace(row=LOST, row_age=0))
            yield f"reaper: condemns {who}", lost._replace(reaper=("release", who, life, True))
    elif what == "release":
        if here and worker.row == LOST:
            state = with_worker(state, who, worker._replace(row="", row_age=0))
        if state.owner == (who, life):
            state = state._replace(job=PENDING, owner=NOBODY)
        yield f"reaper: releases what {who} had", state._replace(reaper=RESTS)


# -- what has to hold -------------------------------------------------------------------------


PROMISES = ("overlap", "stale")


def problem(state: State) -> str:
    """Return which promise is broken in *state*, nothing if none is."""
    if sum(worker.alive for worker in state.workers) > 1:
        return "overlap"
    if state.accepted and state.accepted != state.run:
        return "stale"
    return ""


class Result(NamedTuple):
    """What a search found."""

    states: int
    depth: int
    broken: str  # the promise, nothing if all hold
    history: List[str]  # the steps that lead there


def explore(rules: Rules, promises: Sequence[str] = PROMISES, most: int = 10_000_000, depth: int = 10_000) -> Result:
    """Visit every state that can be reached, up to a number of states or a depth, or until a promise is broken."""
    start = first()
    came: Dict[State, Optional[Tuple[State, str]]] = {start: None}
    layer = [start]
    level = 0
    while layer and level < depth and len(came) < most:
        level += 1
        following = []
        for state in layer:
            for what, other in steps(state, rules):
                if other in came:
                    continue
                came[other] = (state, what)
                broken = problem(other)
                if broken in promises:
                    return Result(len(came), level, broken, _history(came, other))
                following.append(other)
        layer = following
    return Result(len(came), level, "", [])


def _history(came: Dict[State, Optional[Tuple[State, str]]], state: State) -> List[str]:
    found = []
    before = came[state]
    while before is not None:
        found.append(before[1])
        before = came[before[0]]
    return found[::-1]


def stuck(rules: Rules) -> Tuple[int, Optional[State]]:
    """Return how many states there are, and one from which the job never ends although all is well from there on.

    All is well when no answer is lost and each worker renews its lease before it is over. A state in which
    the model's own bounds (runs, lives) are used up counts as an end.
    """
    index: Dict[State, int] = {first(): 0}
    before: List[List[int]] = [[]]  # from where each state is reached while all is well
    order = [first()]
    ends = []
    for state in order:
        here = index[state]
        late = any(worker.at != OUT and worker.age >= rules.lease for worker in state.workers)
        if state.job == ENDED or state.run >= rules.runs or state.workers[0].life >= rules.lives > 1:
            ends.append(here)
        for what, other in steps(state, rules):
            if other not in index:
                index[other] = len(order)
                order.append(other)
                before.append([])
            if not what.endswith("no answer") and not (what == "tick" and late):
                before[index[other]].append(here)
    good = set(ends)
    while ends:
        for place in before[ends.pop()]:
            if place not in good:
                good.add(place)
                ends.append(place)
    return len(order), next((state for state in order if index[state] not in good), None)


def main(argv: Optional[List[str]] = None) -> int:
    """Explore with the rules given; print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    defaults = Rules()
    for name, value in defaults._asdict().items():
        option = "--" + name.replace("_", "-")
        if value is False:
            parser.add_argument(option, action="store_true")
        elif value is True:
            parser.add_argument("--no-" + option[2:], dest=name, action="store_false", help=f"take out: {name}")
        else:
            parser.add_argument(option, type=int, default=value, metavar="N", help=f"default: {value}")
    parser.add_argument("--most", type=int, default=10_000_000, help="states to visit at most")
    parser.add_argument(
        "--only", choices=(*PROMISES, "stuck"), help="look at one promise alone (default: the first two)"
    )
    given = vars(parser.parse_args(argv))
    most, only = given.pop("most"), given.pop("only")
    rules = Rules(**given)
    began = time.monotonic()
    if only == "stuck":
        states, found = stuck(rules)
        print(f"{states} states; {'none is stuck' if found is None else found} ({time.monotonic() - began:.0f} s)")
        return 1 if found else 0
    result = explore(rules, (only,) if only else PROMISES, most)
    took = f"{time.monotonic() - began:.0f} s"
    if not result.broken:
        print(f"{result.states} states, {result.depth} steps deep: no {only or ', no '.join(PROMISES)} ({took})")
        return 0
    print(f"broken: {result.broken}, after {result.depth} steps ({result.states} states, {took}):")
    print("\n".join("  " + step for step in result.history))
    return 1


if __name__ == "__main__":
    sys.exit(main())
