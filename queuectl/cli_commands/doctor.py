"""``doctor``: is the store sound, do the workers live, is there anything to be done?"""

from __future__ import annotations

import os
import sys

from queuectl.cli_commands.spec import Command
from queuectl.errors import QueuectlError, why
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Sequence, Tuple

    from queuectl.cli_commands.spec import Args

OK, NOTE, BAD = "ok", "note", "bad"
LEAST_FREE_BYTES = 100 * 1024 * 1024
LARGE_WAL_BYTES = 64 * 1024 * 1024
# A due job that nobody takes for so long is stuck, not just new.
STUCK_S = 60.0
# Among so many jobs of some queues, the earliest by run_at, those that have been due longest are looked for.
MOST_LOOKED_AT = 1000
# So many queues are looked at together: SQLite before 3.32 takes 999 parameters.
MOST_QUEUES = 500
# So many of those that nobody serves are told one by one.
MOST_TOLD = 5
# sqlite.org/wal.html: a checkpoint and a commit at the same moment may lose pages; fixed in 3.51.3.
WAL_RACE_FROM, WAL_RACE_TO = (3, 7, 0), (3, 51, 2)


class Finding:
    """One thing that was looked at: ``ok``, a ``note``, or ``bad`` with what to do."""

    __slots__ = ("about", "advice", "level", "text")

    def __init__(self, level: str, about: str, text: str, advice: str = "") -> None:
        self.level = level
        self.about = about
        self.text = text
        self.advice = advice


def doctor(args: Args) -> int:
    """``doctor``."""
    from queuectl.cli_commands.progress import Bar
    from queuectl.render import wants_colour, write_json

    bar = Bar(args)
    findings: List[Finding] = list(_versions(args.db or os.environ.get("QUEUECTL_DB", "")))
    try:
        with Queue(args.db, create=args.may_make_store) as queue:
            for check in (_files, _run_folder, _damage, _settings, _workers, _jobs):
                if check is _damage:
                    bar.show(None, "reading the whole store")
                findings += check(queue)
    except QueuectlError as error:  # it cannot be opened, or not be read to the end: that is what is wrong with it
        findings.append(_unusable(error))
    finally:
        bar.clear()
    sick = any(finding.level == BAD for finding in findings)
    if args.json:
        write_json({"ok": not sick, "findings": [_as_json(finding) for finding in findings]})
    else:
        colour = wants_colour(args.no_color)
        for finding in findings:
            if finding.level == BAD or not args.quiet:
                _print(finding, colour)
    return 1 if sick else 0


def _unusable(error: QueuectlError) -> Finding:
    """Return the finding that the store cannot be used: the last sentence of *error* is what to do."""
    # To others the message says that doctor tells more: this is doctor.
    message = str(error).replace("'queuectl doctor' says more; restore", "Restore")
    what, stop, advice = message.rpartition(". ")
    return Finding(BAD, "store", what + ".", advice) if stop else Finding(BAD, "store", message)


def _as_json(finding: Finding) -> object:
    return {"level": finding.level, "about": finding.about, "text": finding.text, "advice": finding.advice or None}


def _print(finding: Finding, colour: bool) -> None:
    from queuectl.render import escape, paint

    state = {OK: "completed", NOTE: "failed", BAD: "dead"}[finding.level]
    print(f"{paint(finding.level.ljust(4), state, colour)}  {finding.about:<8} {escape(finding.text)}")
    if finding.advice:
        print(f"{'':<15}{escape(finding.advice)}")


def _versions(location: str) -> Iterator[Finding]:
    """Name the versions of what a store at *location* needs; that is known before it is opened."""
    from queuectl import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(OK, "version", f"queuectl {__version__} on Python {python}, {sys.platform}")
    if "://" in location and not location.startswith("sqlite:"):
        return
    import sqlite3

    if WAL_RACE_FROM <= sqlite3.sqlite_version_info <= WAL_RACE_TO:
        yield Finding(
            NOTE,
            "sqlite",
            f"SQLite {sqlite3.sqlite_version} has a rare bug: a checkpoint during a commit may damage the store.",
            "It is fixed in SQLite 3.51.3, which a newer Python or a system update may bring.",
        )
    else:
        yield Finding(OK, "sqlite", f"SQLite {sqlite3.sqlite_version}")


def _files(queue: Queue) -> Iterator[Finding]:
    """Look at the store's file: who may read it, how large its log is, the room that is left."""
    from queuectl.render import size_text

    path = queue.store.location
    if "://" in path:
        yield Finding(OK, "store", path)
        problem = queue.store.read_only()
        if problem is not None:
            yield Finding(BAD, "access", problem.what + ".", problem.advice)
        return
    found = os.stat(path)
    yield Finding(OK, "store", f"{path}, {size_text(found.st_size)}")
    real = os.path.realpath(path)  # SQLite follows links: what belongs to the store lies beside the file itself
    if found.st_nlink > 1:
        text = f"{real} has {found.st_nlink} names (hard links), each with its own log: using two damages the store."
        advice = f"Use only one of them, or a symbolic link. Find them: find / -xdev -samefile '{real}'"
        yield Finding(NOTE, "store", text, advice)
    yield from _permissions(real, [os.path.dirname(real), os.path.realpath(os.path.dirname(path))])
    try:
        wal_bytes = os.stat(real + "-wal").st_size
    except OSError:
        wal_bytes = 0
    if wal_bytes > LARGE_WAL_BYTES:
        yield Finding(
            BAD,
            "log",
            f"the write-ahead log {real}-wal has grown to {size_text(wal_bytes)}.",
            "Some program keeps a read transaction open on the store. Close it.",
        )
    free_bytes = _free_bytes(os.path.dirname(real))
    trouble = _trouble_with(os.path.dirname(real))
    if trouble and free_bytes:
        text = (
            f"nothing can be written in {os.path.dirname(real)}: {trouble}. No job can be stored, started or recorded."
        )
        yield Finding(BAD, "disk", text, "Look at 'df -i', 'ulimit -f' and the kernel's log (dmesg).")
    elif free_bytes < LEAST_FREE_BYTES:
        text = f"only {size_text(free_bytes)} free on the store's disk."
        yield Finding(BAD, "disk", text, "Free some space. 'queuectl prune' deletes old jobs.")
    else:
        yield Finding(OK, "disk", f"{size_text(free_bytes)} free")


def _free_bytes(folder: str) -> int:
    from shutil import disk_usage

    return disk_usage(folder).free


def _trouble_with(folder: str) -> str:
    """Return why no file can be made in *folder* and written: a disk may be read-only, or have room but no inodes."""
    from tempfile import TemporaryFile

    try:
        with TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(4096))
    except PermissionError:  # of this user's own; ``_permissions`` tells
        return ""
    except OSError as error:
        return why(error)
    return ""


def _permissions(path: str, folders: Sequence[str]) -> Iterator[Finding]:
    """A job's command and environment may hold secrets, and who can write a job can run commands.

    So can who puts another file, or another link, into one of the *folders* that lead to the store.
    """
    if sys.platform == "win32":
        return
    if not os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY:
        text = f"you may only read {path}, so you cannot enqueue or run jobs."
        yield Finding(BAD, "access", text, "Become the user who owns it, or choose another store with --db.")
    wrong = []
    for name, mask in ((path, 0o077), *((folder, 0o022) for folder in dict.fromkeys(folders))):
        mode = os.stat(name).st_mode & 0o7777
        # A folder for everybody, such as /tmp, is safe to have the file in if it is sticky.
        if mode & mask and not (os.path.isdir(name) and mode & 0o1000):
            wrong.append((name, mode, mask))
    for name, mode, mask in wrong:
        advice = f"Fix it: chmod {mode & ~mask & 0o777:03o} '{name}'"
        yield Finding(BAD, "access", f"other users may use {name} (mode {mode:03o}).", advice)
    if not wrong:
        yield Finding(OK, "access", "only you can read the store")


def _run_folder(queue: Queue) -> Iterator[Finding]:
    """What is in the run folder is believed, and others may put files beside a store in a folder for everybody."""
    run_folder = queue.store.run_folder
    beside = os.path.dirname(run_folder.path)
    trouble, for_all = "", False
    try:
        mode = os.stat(beside).st_mode
        for_all = os.name != "nt" and bool(mode & 0o1000 and mode & 0o022)
        trouble = run_folder.trouble() or run_folder.refusal()
    except OSError:  # there is none: no worker has run yet
        pass
    if trouble:
        text = f"{run_folder.path} {trouble}. It is not used, so idle workers notice new jobs only once a second."
        advice = "Have it removed and restart the workers, or move the store to a directory of your own."
        yield Finding(BAD, "access", text, advice)
    if for_all:
        text = f"other users may put files next to the store: {beside} is open to everyone."
        yield Finding(NOTE, "access", text, "Keep the store in a directory of your own, such as ~/.queuectl.")


def _damage(queue: Queue) -> Iterator[Finding]:
    problems = queue.check()
    for problem in problems:
        yield Finding(BAD, "store", problem.what + ".", problem.advice)
    if not problems:
        yield Finding(OK, "store", "undamaged (integrity, schema and counters)")


def _settings(queue: Queue) -> Iterator[Finding]:
    """Name settings that another version took: workers go by the defaults."""
    from queuectl.config import SETTINGS, unreadable
    from queuectl.errors import shown

    stored = queue.settings()
    for key in unreadable(stored):
        text = f"{key} is {shown(stored[key])}, which is not {SETTINGS[key].kind}; the default is in force."
        yield Finding(BAD, "settings", text, f"Set it anew: queuectl config set {key} VALUE, or unset it.")


def _workers(queue: Queue) -> Iterator[Finding]:
    """Look for workers that died or hang with jobs in their hands."""
    from queuectl.recovery import DEAD, HUNG, condition, is_paused, is_stranger, lease_of
    from queuectl.render import plural

    store = queue.store
    lease_s = lease_of(store)
    alive = 0
    workers = store.workers()
    strangers = [worker for worker in workers if is_stranger(worker, store)]
    if strangers:
        pids = ", ".join(str(worker.pid) for worker in strangers)
        text = f"this is a copy of another store, whose workers and supervisors are running (pid {pids})."
        advice = "What they were running runs again here once a worker is started: queuectl worker start"
        yield Finding(BAD, "workers", text, advice)
    for worker in workers:
        if worker in strangers:
            continue
        state = condition(worker, store, lease_s)
        alive += state != DEAD and worker.role == "worker"
        jobs = len(store.runs_of(worker.id))
        if state != DEAD and is_paused(worker):
            who = f"worker {worker.number}" if worker.role == "worker" else "a supervisor"
            text = f"{who}, pid {worker.pid}, is paused by a signal such as Ctrl-Z."
            yield Finding(BAD, "workers", text, f"Resume it: kill -CONT {worker.pid}")
        elif state == HUNG:
            yield Finding(
                BAD,
                "workers",
                f"worker {worker.number}, pid {worker.pid}, has not renewed its lease for a while.",
                "Another worker will end it. Or end it yourself and restart the workers.",
            )
        elif state == DEAD and jobs:
            yield Finding(
                BAD,
                "workers",
                f"worker {worker.number}, pid {worker.pid} on {worker.host}, died while running {plural(jobs, 'job')}.",
                "Any live worker recovers them within seconds. If none is running, start one: queuectl worker start",
            )
    yield Finding(OK, "workers", f"{alive} alive")


def _jobs(queue: Queue) -> Iterator[Finding]:
    """Look for jobs that are due and stay where they are."""
    from queuectl.clock import format_duration
    from queuectl.explain import serving

    workers = queue.workers()
    unserved = []
    for info in queue.queues():
        waiting = info.pending + info.failed
        if info.paused and waiting:
            wait = "1 job is waiting" if waiting == 1 else f"{waiting} jobs are waiting"
            advice = f"Resume it: queuectl queue resume {info.name}"
            yield Finding(NOTE, "jobs", f"queue {info.name} is paused; {wait}.", advice)
        elif waiting and not serving(workers, info.name):
            unserved.append(info.name)
    stuck = [(name, age_s) for name, age_s in _due_ages(queue, unserved) if age_s > STUCK_S]
    for name, age_s in stuck[:MOST_TOLD]:
        text = f"queue {name} has jobs due for {format_duration(age_s)}, and no live worker serves it."
        yield Finding(BAD, "jobs", text, "Start one: queuectl worker start")
    if len(stuck) > MOST_TOLD:
        text = "more queues have jobs that are due, and no live worker serves them: queuectl queue list"
        yield Finding(BAD, "jobs", text, "Start one: queuectl worker start")
    if not stuck:
        yield Finding(OK, "jobs", "none stuck")


def _due_ages(queue: Queue, names: Sequence[str]) -> List[Tuple[str, float]]:
    """Return for how long the oldest due job of each queue has been due, the longest first; not of all if many are.

    One that was given a time long past has been due since it was there: nobody kept it waiting before.
    """
    from queuectl.job import WAITING, JobFilter

    now = queue.now()
    ages: Dict[str, float] = {}
    for first in range(0, len(names), MOST_QUEUES):
        some = tuple(names[first : first + MOST_QUEUES])
        for job in queue.jobs(JobFilter(WAITING, some), MOST_LOOKED_AT, "run_at"):
            age_s = now - max(job.run_at, job.created_at)
            if age_s > ages.get(job.queue, 0.0):
                ages[job.queue] = age_s
        if len(ages) > MOST_TOLD:
            break
    return sorted(ages.items(), key=lambda item: -item[1])


COMMANDS = (
    Command(
        "doctor",
        doctor,
        examples=[("queuectl doctor", ""), ("queuectl doctor --json", "for monitoring")],
        details="Checks the versions, the store's files and contents, the disk, the workers, and for stuck jobs.",
        exit_codes=[(1, "there is a problem; it says what to do")],
    ),
)
