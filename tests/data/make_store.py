"""Make a store full of jobs in every state, to be opened for ever: ``python3 -m tests.data.make_store`` (POSIX).

Writes ``store-VERSION-schema-N.db`` and beside it the same name with ``.json``: what this version says about it. A
file that was written is never written anew: run this once after a change of the schema, and commit what it makes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import queuectl
from queuectl import Queue
from queuectl.db.migrate import NEWEST
from queuectl.job import ENDED, JobFilter
from queuectl.runner import end_runs_at_once
from queuectl.runner.identity import send_signal

FOLDER = Path(__file__).resolve().parent
FAR = "2100-01-01T00:00:00Z"
SETTINGS = {
    "backoff_base": "3", "backoff_jitter": "0.1", "backoff_max": "2h", "keep_dead": "36000d", "kill_grace": "0.2",
    "max_lost": "2", "max_retries": "1", "output_limit": "2000",
}  # fmt: skip
#: Jobs that workers run until they are as their names say.
RUN: List[Dict[str, Any]] = [
    {"command": "echo hello; echo trouble >&2"},
    {"command": "echo grüße 日本 '\"' $((6 * 7))", "id": "completed.unicode", "tags": ["nightly", "a.b-c_d"]},
    {"command": 'echo "$GREETING in $PWD"', "id": "completed-env", "env": {"GREETING": "hi"}, "priority": -7},
    {"command": "seq 2000", "id": "completed-cut-output", "queue": "reports"},
    {"command": '[ "$QUEUECTL_ATTEMPT" -gt 1 ]', "id": "completed-second-run", "backoff_base": 1},
    {"command": "printf 'no\\000text\\377'; exit 3", "id": "dead", "backoff_base": 1},
    {"command": "sleep 60", "id": "dead-timed-out", "timeout": 0.2, "max_retries": 0},
    {"command": "kill -SEGV $$", "id": "dead-by-signal", "max_retries": 0, "queue": "reports"},
    {"command": "exit 4", "id": "failed-waits", "max_retries": 9, "backoff_base": 1000000},
    {"command": "echo again", "id": "retried-by-hand"},
]
HELD: List[Dict[str, Any]] = [
    {"command": "echo so far; sleep 60", "id": "cancelled-while-it-ran"},
    {"command": '[ "$QUEUECTL_ATTEMPT" -gt 1 ] || { echo begun; sleep 60; }', "id": "processing"},
]
WAITING: List[Dict[str, Any]] = [
    {"command": "echo now", "id": "pending", "priority": 2147483647},
    {"command": "echo later", "id": "pending-scheduled", "run_at": FAR, "max_retries": 0, "timeout": "1h"},
    {"command": "echo held", "id": "pending-paused", "queue": "paused", "tags": ["x"]},
    {"command": "echo never", "id": "cancelled"},
    {"command": "echo generated"},
    {"command": "echo after", "id": "pending-after", "after": ["dead", "pending-scheduled"], "delay": "1h"},
    {"command": "echo later", "id": "pending-after-that", "after": ["pending-after", "pending"]},
]


def made() -> None:
    """Fill the store of QUEUECTL_HOME."""
    with Queue() as queue:
        for key, value in SETTINGS.items():
            queue.store.set_setting(key, value)
        queue.store.set_limit("reports", 1)
        queue.store.set_paused("paused", True)
        pruned = queue.enqueue("true", cwd="/", id="pruned").id
        worker = subprocess.Popen(
            [sys.executable, "-m", "queuectl", "worker", "start", "--concurrency", "4"], stdout=subprocess.DEVNULL
        )
        until(lambda: queue.get(pruned).state == "completed")
        queue.store.prune(JobFilter(("completed",)))
        queue.enqueue_many([{"cwd": "/", **job} for job in RUN])
        until(lambda: all(job.state in ENDED or (job.id == "failed-waits" and job.failures) for job in queue.jobs()))
        queue.retry("retried-by-hand")
        until(lambda: queue.get("retried-by-hand").state == "completed")
        queue.enqueue("kill -9 $PPID; sleep 60", id="dead-lost", cwd="/")
        until(lambda: queue.get("dead-lost").state == "dead")
        queue.enqueue_many([{"cwd": "/", **job} for job in HELD])
        until(lambda: all(queue.output(job["id"]) for job in HELD))
        queue.cancel("cancelled-while-it-ran")
        until(lambda: queue.get("cancelled-while-it-ran").state == "cancelled")
        worker.kill()
        until(lambda: worker.poll() is not None)
        for row in queue.store.workers():
            send_signal(row.pid, row.pid_started, signal.SIGKILL)
        end_runs_at_once(queue.store.store_id, frozenset([queue.runs("processing")[-1].run_id]), {})
        queue.enqueue_many([{"cwd": "/", **job} for job in WAITING])
        queue.cancel("cancelled")


def until(there: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 30
    while not there():
        if time.monotonic() > deadline:
            sys.exit("it does not come to its end; see what the workers say.")
        time.sleep(0.02)


def made_anonymous(path: Path) -> None:
    """Take out what tells of this machine, so that the workers are those of a machine that is no more."""
    with contextlib.closing(sqlite3.connect(str(path))) as db:
        db.execute("UPDATE runs SET host = 'example'")
        db.execute("UPDATE store SET boot_id = 'boot-of-old'")
        db.execute("UPDATE workers SET host = 'example', host_id = 'machine-of-old/boot-of-old'")
        db.commit()


def one_file(path: Path) -> None:
    """Bring everything into the file itself, and nothing that was deleted."""
    with contextlib.closing(sqlite3.connect(str(path))) as db:
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def said() -> Dict[str, Any]:
    """Return what this version says about the store: jobs with their runs, output, settings, queues."""
    with Queue(create=False) as queue:
        jobs = [job.id for job in queue.jobs()]
        output = {
            str(run.run_id): base64.b64encode(queue.output(job_id, run.number)).decode()
            for job_id in jobs
            for run in queue.runs(job_id)
        }
        settings = queue.store.settings()
    shown = [ask("show", job_id, "--json") for job_id in jobs]
    return {"jobs": shown, "output": output, "settings": settings, "queues": ask("queue", "list", "--json")}


def ask(*words: str) -> Any:
    """Return what a command prints as JSON."""
    return json.loads(
        subprocess.run([sys.executable, "-m", "queuectl", *words], check=True, stdout=subprocess.PIPE).stdout
    )


def main() -> int:
    """Make both files."""
    target = FOLDER / f"store-{queuectl.__version__}-schema-{NEWEST}.db"
    if target.exists():
        sys.exit(f"{target.name} is there: a store that was written stays as it is.")
    scratch = Path(tempfile.mkdtemp(prefix="store"))
    path = scratch / "jobs.db"
    os.environ.update(QUEUECTL_HOME=str(scratch), PYTHONPATH=str(FOLDER.parent.parent))
    try:
        made()
        made_anonymous(path)
        about = said()
        one_file(path)
        shutil.copyfile(path, target)
        target.with_suffix(".json").write_text(json.dumps(about, indent=1, ensure_ascii=True) + "\n", encoding="ascii")
    finally:
        shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
