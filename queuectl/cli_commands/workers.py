"""``worker start``, ``worker stop`` and ``worker list``."""

from __future__ import annotations

import os
import time

from queuectl.cli_commands.spec import DURATION, TABLE_OPTION, Command, Option, whole_from
from queuectl.errors import UsageError
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Collection, List, Sequence

    from queuectl.cli_commands.spec import Args
    from queuectl.job import Worker
    from queuectl.launch import Started

# More is a slip of the finger, and a fork bomb.
MOST_WORKERS = 1000
INTERRUPTED = 130


def check_start(args: Args) -> None:
    """Refuse what no supervisor could start with.

    Raises:
        UsageError: It names what.
    """
    from queuectl.jobspec import NAME_RULE, is_name

    for queue in args.queue:
        if not is_name(queue):
            raise UsageError(f"a queue's name must be {NAME_RULE}, not {queue[:40]!r}.")
    if args.count > MOST_WORKERS:
        raise UsageError(f"--count must be at most {MOST_WORKERS}. With --concurrency one worker runs many jobs.")


def start(args: Args) -> int:
    """``worker start``."""
    from queuectl import supervisor

    check_start(args)
    return supervisor.start(
        location=args.db,
        count=args.count,
        concurrency=args.concurrency,
        queues=list(dict.fromkeys(args.queue)),
        daemon=bool(args.daemon),
        drain=bool(args.drain),
        tell=lambda started: _tell_started(started, args),
    )


def _tell_started(started: Started, args: Args) -> None:
    """Print who was started in the background."""
    from queuectl import pidfile
    from queuectl.launch import tidy_path

    if args.json:
        from queuectl.render import write_json

        workers = [_place_json(worker) for worker in started.workers]
        write_json({"workers": workers, "drained": started.over, "pids_path": pidfile.path()})
    elif args.quiet:
        for worker in started.workers:
            print(worker.pid)
    else:
        for worker in started.workers:
            print(f"Started worker pid={worker.pid}")
        print(f"Saved PIDs to {tidy_path(pidfile.path())}")
        if started.over:
            print("Nothing is left to do, so the workers have exited.")


def stop(args: Args) -> int:
    """``worker stop``: every worker of this store on this machine, on some hosts, or on all."""
    from queuectl.control import own_workers, to_stop
    from queuectl.render import note, plural, write_json

    if args.host and args.all_hosts:
        raise UsageError("--host and --all-hosts do not go together. Give only one of them.")
    with Queue(args.db, create=args.may_make_store) as queue:
        before = queue.workers()
        meant = to_stop(before, args.host, args.all_hosts)
        supervisors = [] if meant else to_stop(_supervisors(queue), args.host, args.all_hosts)
        if args.verbose and not args.quiet:
            for worker in meant:
                how = "stop now" if args.now else "finish its jobs and stop"
                note(f"asking worker {worker.number}, {_place(worker)}, to {how}.")
        if not args.now:
            _tell_of_jobs(queue, meant, args)
        begun_mono = time.monotonic()
        try:
            left = queue.stop_workers(bool(args.now), args.timeout, args.host, bool(args.all_hosts))
        except KeyboardInterrupt:
            note("interrupted, but the workers still stop. 'queuectl worker list' shows which are left.")
            return INTERRUPTED
        over = args.timeout is not None and time.monotonic() - begun_mono >= args.timeout
        groups = {worker.group_id for worker in (*before, *left)}
        after = to_stop(queue.workers(), args.host, args.all_hosts)
        new = [worker for worker in after if worker.group_id not in groups]
        _forget_the_dead(queue)
        own = {worker.id for worker in (own_workers(queue.store) if left else [])}
    still = [worker for worker in left if worker.role == "worker"]
    stopped = len(meant) - len(still)
    left = still or left  # a supervisor only where all of its workers are gone
    if args.json:
        write_json({"stopped": max(stopped, 0), "left": [_place_json(worker) for worker in left]})
    elif not args.quiet:
        if supervisors and not left:  # a worker had died, and the next was to start in a moment
            print(f"Stopped {plural(len(supervisors), 'supervisor')} without a live worker.")
        elif not meant and not left:
            print("No workers are running" + (" on " + " or ".join(args.host) if args.host else "") + ".")
        elif stopped > 0:
            print(f"Stopped {plural(stopped, 'worker')}.")
    if len(before) > len(meant) and not args.quiet:
        _tell_of_others(before, meant, args)
    if new and not args.quiet:
        note(f"{plural(len(new), 'worker')} started in the meantime {'keeps' if len(new) == 1 else 'keep'} running.")
    return _told_left(left, own, over, args) if left else 0


def _told_left(left: Sequence[Worker], own: Collection[str], over: bool, args: Args) -> int:
    """Say who is still there, *own* being the worker that runs this command; return the exit code.

    *over* says that the time was over, or else this is a job's command, which need not wait for them.
    """
    from queuectl.render import note

    names = ", ".join(map(_place, left))
    if all(worker.id in own for worker in left):
        if not args.quiet:
            note(f"this command is part of a job of the worker with {names}, which stops when the job has ended.")
        return 0
    if not over:
        if not args.quiet:
            note(f"this command is part of a job, and does not wait for those begun later, which run on: {names}.")
        return 0
    step = "'queuectl worker stop --now' ends their jobs."
    if args.now:
        step = (
            "Their jobs are being ended, which may take as long as 'kill_grace'. 'queuectl worker list' shows who is "
            "left. One that stays does not react: end it with 'kill -9' and its pid; its jobs run again."
        )
    note(f"still running after {args.timeout:g} s: {names}. {step}")
    return 1


def _forget_the_dead(queue: Queue) -> None:
    """Take those out of ``pids.json`` that were killed with the supervisor that should have done it."""
    from queuectl.control import local_workers
    from queuectl.pidfile import PidFile, path

    if os.path.exists(path()):
        PidFile(queue.store.store_id).keep(local_workers(queue.store))


def _tell_of_jobs(queue: Queue, workers: Sequence[Worker], args: Args) -> None:
    """Tell somebody who sits there what the stop will wait for."""
    import sys

    from queuectl.cli_commands.status import running_jobs
    from queuectl.render import is_terminal, note, plural

    if args.quiet or not is_terminal(sys.stderr):
        return
    running = running_jobs(queue)
    jobs = [job_id for worker in workers for job_id, _ in running.get(worker.id, ())]
    if jobs:
        names = ", ".join(jobs[:5]) + (f" and {len(jobs) - 5} more" if len(jobs) > 5 else "")
        them = "it" if len(jobs) == 1 else "them"
        note(
            f"waiting for {plural(len(jobs), 'job')} to finish: {names}. 'queuectl worker stop --now' puts {them} back."
        )


def _supervisors(queue: Queue) -> List[Worker]:
    from queuectl.recovery import live_workers

    return [worker for worker in live_workers(queue.store) if worker.role == "supervisor"]


def _place(worker: Worker) -> str:
    """Return where a worker is, for people: its host too if that is another."""
    from queuectl.recovery import is_here
    from queuectl.render import escape

    return f"pid {worker.pid}" + ("" if is_here(worker) else f" on {escape(worker.host)}")


def _tell_of_others(before: Sequence[Worker], meant: Sequence[Worker], args: Args) -> None:
    from queuectl.render import escape, note, plural

    others = [worker for worker in before if worker not in meant]
    keep = "keeps" if len(others) == 1 else "keep"
    if args.host:
        names = ", ".join(escape(name) for name in dict.fromkeys(worker.host for worker in others))
        note(f"{plural(len(others), 'worker')} on {names} {keep} running.")
    else:
        note(
            f"{plural(len(others), 'worker')} on other hosts {keep} running. 'queuectl worker stop --all-hosts' "
            f"stops {'it' if len(others) == 1 else 'them'} too."
        )


def _place_json(worker: Worker) -> object:
    return {"id": worker.id, "number": worker.number, "pid": worker.pid, "host": worker.host}


HEADERS = ("WORKER", "PID", "HOST", "QUEUES", "SLOTS", "SINCE", "JOBS")
# What a narrow terminal does not show, first to last.
SPARE = ("SLOTS", "SINCE", "QUEUES", "HOST")


def list_workers(args: Args) -> int:
    """``worker list``."""
    from queuectl import render
    from queuectl.cli_commands.status import in_order, jobs_text, orders_text, running_jobs, worker_json
    from queuectl.clock import local_text

    with Queue(args.db, create=args.may_make_store) as queue:
        workers = in_order(queue.workers())
        running = running_jobs(queue) if workers else {}
        now = queue.now()
        if args.json:
            render.write_json_array(worker_json(worker, running.get(worker.id, ())) for worker in workers)
        elif args.quiet:
            for worker in workers:
                print(worker.pid)
        elif not (args.table or render.is_terminal()):
            render.write_json_lines(worker_json(worker, running.get(worker.id, ())) for worker in workers)
        elif not workers:
            render.say("No workers are running.")
        else:
            rows = [
                (
                    str(worker.number),
                    str(worker.pid),
                    render.escape(worker.host),
                    ", ".join(worker.queues) or "all",
                    str(worker.concurrency),
                    local_text(worker.started_at, now),
                    jobs_text(running.get(worker.id, ()), now) + orders_text(worker),
                )
                for worker in workers
            ]
            render.write_table(HEADERS, rows, ("WORKER", "PID", "SLOTS"), spare=SPARE)
    return 0


COUNT_OPTION = Option("--count", "number of worker processes (default: 1)", "N", whole_from(1), default=1)
CONCURRENCY_OPTION = Option(
    "--concurrency", "commands that each runs at once (default: 1)", "M", whole_from(1), default=1
)
SERVED_OPTION = Option("--queue", "run only jobs of this queue (default: all)", "Q", repeat=True, complete="queues")

COMMANDS = (
    Command(
        "worker start",
        start,
        "Start workers",
        options=[
            COUNT_OPTION,
            CONCURRENCY_OPTION,
            Option("--daemon", "run in the background; returns once they are up"),
            SERVED_OPTION,
            Option("--drain", "exit when nothing is left to run, now or later"),
        ],
        examples=[
            ("queuectl worker start", "one worker in the foreground, until Ctrl-C"),
            ("queuectl worker start --count 3 --daemon", "three in the background"),
            ("queuectl worker start --concurrency 500", "one small process, up to 500 commands at once"),
            ("queuectl worker start --drain", "work through all jobs, then exit"),
        ],
        details=(
            "The first Ctrl-C lets running jobs finish; the second ends them and puts them back in the queue.\n"
            "SIGTERM, SIGHUP and 'queuectl worker stop' do what the first does, however often they come; SIGQUIT\n"
            "(Ctrl-\\) and 'queuectl worker stop --now' do what the second does. Workers that run already go on\n"
            "beside the new ones. A worker that dies is replaced, and its jobs run again. One that gets SIGTERM\n"
            "itself ends after its job, and is not replaced. --drain also waits for jobs that are due later, but\n"
            "not for those of paused queues, or held for a job that does not complete. A job cannot drain its own\n"
            "queue, as that would wait for itself, except with --daemon. --daemon prints the workers' pids: with -q\n"
            "nothing else, with --json one document."
        ),
        exit_codes=[(130, "ended by a second Ctrl-C")],
    ),
    Command(
        "worker stop",
        stop,
        "Stop this store's workers, on this machine or on other hosts",
        options=[
            Option("--now", "end running commands and put their jobs back (costs no retry)"),
            Option("--timeout", "give up after this long", "S", DURATION),
            Option(
                "--host", "those on this host instead, named as in 'worker list'", "H", repeat=True, complete="hosts"
            ),
            Option("--all-hosts", "those on every host"),
        ],
        examples=[
            ("queuectl worker stop", "waits for the running jobs"),
            ("queuectl worker stop --now", ""),
            ("queuectl worker stop --host web2", "from any host, through the store"),
            ("queuectl worker stop --all-hosts --timeout 60", ""),
        ],
        details=(
            "Stops workers in the foreground and in the background, whoever started them, and nothing but queuectl's\n"
            "own workers. Workers that start while it waits keep running. Workers on another host are asked through\n"
            "the store, and notice within two seconds. One that is cut off from the store counts as gone once its\n"
            "lease is over. A job may stop the worker that runs it: it is not waited for, and stops when the job has\n"
            "ended. Nor does a job wait for jobs begun after it, as two that stop workers would wait for each other.\n"
            "With --now the job is ended too, and put back like the others."
        ),
        exit_codes=[(0, "all are gone, or none were running"), (1, "some were still running when --timeout was over")],
    ),
    Command(
        "worker list",
        list_workers,
        "List the live workers",
        options=[TABLE_OPTION],
        examples=[("queuectl worker list", ""), ("queuectl worker list --json", "")],
        details="A table on a terminal, JSON Lines when piped, an array with --json, pids with -q.",
    ),
)
