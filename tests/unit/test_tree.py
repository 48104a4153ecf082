"""Whose process is whose: the rules by which leftovers of a run are told from strangers."""

from __future__ import annotations

import sys
import time

import pytest

pytestmark = pytest.mark.posix

if sys.platform != "win32":
    from queuectl.runner import identity, posix, tree
    from queuectl.runner.identity import as_start_time, birth_of, process_started, start_time_at
    from queuectl.runner.tree import Process, _belonging, members


def table(*rows):
    """Return a process table of (pid, parent, group, session, started)."""
    return {row[0]: Process(*row) for row in rows}


def until_it_has_an_environment(pid):
    """Wait for the end of the exec of a process that has just been started: its starter may go on sooner."""
    deadline = time.monotonic() + 20
    while identity.stat_of(pid)[tree._ENV_END] == b"0":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_session_without_its_leader_is_the_runs_as_far_as_the_worker_lived():
    """What started later belongs to a stranger whose session got the same number."""
    processes = table((11, 1, 10, 10, "500"), (12, 1, 10, 10, "900"), (13, 11, 13, 13, "950"), (20, 1, 20, 20, "100"))

    known = _belonging(processes, set(), {10: "400"}, born_by=600)
    living = _belonging(processes, set(), {10: None}, born_by=None)

    assert {11, 13} == known  # 13 descends from 11, whenever it was born
    assert {11, 12, 13} == living


def test_a_leader_with_another_start_time_is_a_stranger():
    """Neither it nor its session is touched; with the noted one all of it is the run's."""
    processes = table((10, 1, 10, 10, "700"), (11, 10, 10, 10, "710"))

    assert set() == _belonging(processes, set(), {10: "400"}, born_by=9999)
    assert {10, 11} == _belonging(processes, set(), {10: "700"}, born_by=0)


def test_the_mark_counts_whatever_the_session():
    """A marked process and its descendants are the run's."""
    processes = table((30, 1, 30, 30, "5"), (31, 30, 31, 31, "6"), (32, 1, 32, 32, "7"))

    assert {30, 31} == _belonging(processes, {30}, {}, born_by=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="start times are numbers on Linux alone")
def test_the_bound_is_not_earlier_than_a_process_that_starts_now():
    """A process that runs by now started no later than now."""
    import os

    assert int(process_started(os.getpid())) <= start_time_at(time.monotonic())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="start times are numbers on Linux alone")
def test_what_is_older_than_the_run_is_not_looked_at():
    """A process of the very moment of the bound is; one that is older is not read any further, whatever its mark."""
    import os
    import subprocess

    env = {"PATH": os.environ["PATH"], "QUEUECTL_STORE_ID": "a-store", "QUEUECTL_RUN_ID": "7"}
    with subprocess.Popen(["sleep", "60"], env=env) as child:
        try:
            born = as_start_time(process_started(child.pid))
            assert birth_of(child.pid) == born
            found = [
                [each.pid for each in members("a-store", (7,), born_after=bound)] for bound in (None, born, born + 1)
            ]
        finally:
            child.kill()

    assert [[child.pid], [child.pid], []] == found
    assert birth_of(child.pid) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an environment is read with the table elsewhere")
@pytest.mark.parametrize("session", [None, b"0"], ids=["its own", "from outside of the container"])
def test_a_process_amid_an_exec_is_read_again_until_it_has_its_environment(session, monkeypatch):
    """On a busy machine that takes longer than two looks; no test can hold a process there, so the answers are held.

    A process whose session began outside of its pid namespace has the session 0, as kernel threads have.
    """
    import os
    import subprocess

    read, stat_of = tree._environment, identity.stat_of
    looks = []

    def environment(pid):
        looks.append(pid)
        return read(pid) if looks.count(pid) > 6 else []

    def fields(pid):
        known = stat_of(pid)
        if not known:  # any process may end meanwhile
            return []
        return [*known[:3], session or known[3], *known[4 : tree._ENV_END], b"0", b"0"]

    env = {"PATH": os.environ["PATH"], "QUEUECTL_STORE_ID": "a-store", "QUEUECTL_RUN_ID": "7"}
    with subprocess.Popen(["sleep", "60"], env=env) as child:
        try:
            born = as_start_time(process_started(child.pid))
            until_it_has_an_environment(child.pid)
            monkeypatch.setattr(tree, "_environment", environment)
            monkeypatch.setattr(identity, "stat_of", fields)
            found = [each.pid for each in members("a-store", (7,), born_after=born)]
        finally:
            child.kill()

    assert [child.pid] == found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an environment is read with the table elsewhere")
def test_a_process_that_was_started_without_an_environment_is_taken_for_that_at_once():
    """It is passed over in one look, in case it is amid an exec, and is found by its session in the next."""
    import subprocess

    with subprocess.Popen(["/bin/sleep", "60"], env={}, start_new_session=True) as child:
        try:
            until_it_has_an_environment(child.pid)
            table = tree._Table("a-store", (7,), None, "")
            known = []
            for _ in range(2):
                table.look()
                known.append(child.pid in table.processes)
        finally:
            child.kill()

    assert [False, True] == known


@pytest.fixture
def begin(home):
    """Begin commands as runs 1, 2 ... of a store, whose processes say in a file of that name that they are there."""
    import os

    begun = []

    def start(*texts):
        for text in texts:
            run_id = len(begun) + 1
            env = {"PATH": os.environ["PATH"], "QUEUECTL_STORE_ID": f"store{os.getpid()}"}
            env["QUEUECTL_RUN_ID"] = str(run_id)
            begun.append(posix.start(text, str(home.parent), env, run_id, env["QUEUECTL_STORE_ID"], 1 << 20))
        return begun

    yield start
    posix.kill(begun)
    for command in begun:
        command.close()
        if not command._reaped:
            os.waitpid(command.pid, 0)


def collected(commands):
    """Return the commands once their first processes have ended and were collected."""
    import os

    for command in commands:
        os.waitpid(command.pid, 0)
        command.reaped()
    return commands


def test_many_commands_are_ended_by_few_looks(begin, eventually, monkeypatch):
    """A worker of five hundred that looked for each on its own would outlast its lease, and its jobs run twice."""
    commands = begin(*["sleep 600 & wait"] * 60)
    eventually(lambda: 120 == len(tree.members(commands[0]._store_id, range(1, 61))))
    looks = []
    look = tree._Table.look
    monkeypatch.setattr(tree._Table, "look", lambda table: looks.append(1) or look(table))

    posix.kill(commands)
    posix.left_over(collected(commands))

    assert len(looks) < 60
    eventually(lambda: [] == posix.left_over(commands))


def test_of_several_commands_those_are_found_that_have_left_something(begin, home, eventually):
    """In its session, out of it, and out of it without its mark as long as a parent is there; the others have ended."""
    hidden = "env -i PATH=$PATH setsid sleep 600 & echo >> begun; wait"
    commands = begin(
        "sleep 600 & echo >> begun",
        "echo >> begun",
        "setsid sleep 600 & echo >> begun",
        f"setsid sh -c '{hidden}' &",
        "echo >> begun",
    )
    collected(commands)
    eventually(lambda: 5 == len((home.parent / "begun").read_text().splitlines()))

    assert [1, 3, 4] == [command._run_id for command in posix.left_over(commands)]
    posix.terminate(commands[2:])
    eventually(lambda: [1] == [command._run_id for command in posix.left_over(commands)])
    posix.kill(commands)
    eventually(lambda: [] == posix.left_over(commands))


def test_a_command_that_got_the_pid_of_an_earlier_one_is_not_of_its_run(begin, eventually):
    """Both are being ended: the earlier one has ended, and the later one is ended by its own group."""
    first, second = begin("true", "sleep 600")
    collected([first])
    first.pid, first.started = second.pid, "1"

    assert [second] == posix.left_over([first, second])
    posix.terminate([second, first])

    collected([second])  # its shell; a child takes a moment more
    eventually(lambda: [] == posix.left_over([second]))


@pytest.fixture
def no_proc(monkeypatch):
    """A system without /proc, as macOS is."""
    import shutil

    if not shutil.which("ps"):
        pytest.skip("needs ps")
    monkeypatch.setattr(identity, "_HAS_PROC", False)
    monkeypatch.setattr(tree, "_HAS_PROC", False)


@pytest.mark.parametrize(
    "variables",
    [{"TZ": "Asia/Tokyo"}, {"TZ": "America/New_York"}, {"PATH": "/nowhere"}, {"LC_ALL": "de_DE.UTF-8"}],
    ids=lambda variables: next(iter(variables)),
)
def test_a_process_is_the_same_to_whoever_looks(no_proc, monkeypatch, variables):
    """Without /proc its start is a date, which must not depend on the time zone or language of the looker."""
    import os

    before = process_started(os.getpid())
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    assert before
    assert before == process_started(os.getpid()) == tree._snapshot_by_ps()[os.getpid()].started


def test_the_boot_is_known_whatever_the_path(no_proc, monkeypatch, tmp_path):
    """Cron's does not lead to sysctl: a worker that it started would be one of another boot, that is a dead one."""
    program = tmp_path / "sysctl"
    program.write_text("#!/bin/sh\necho 0F5E-BOOT\n")
    program.chmod(0o755)
    monkeypatch.setitem(identity._PLAIN, "PATH", str(tmp_path))
    monkeypatch.setattr(identity, "_read", lambda path: "")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    assert "0F5E-BOOT" == identity._boot()
