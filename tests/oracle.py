"""The oracle of every process and fault test: was anything lost, run twice at once, or left behind?

Two witnesses are heard. The store says what it believes: jobs, runs, workers. The commands say what
happened: each appends a line to a file of their own when it starts and ends, and may add beats in between.
A line is written by one ``write`` to a file opened for appending, so the order of lines is the order of events,
whatever the clocks say. Who reads meanwhile may see the beginning of the last line only: a ``write`` across the end of
a page shows up page by page.

From a shell: ``python -m tests.oracle --log FILE [--acknowledged FILE] [--db STORE] [--running]``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Union

from queuectl.db import open_store
from queuectl.db.base import Store
from queuectl.db.transfer import TABLES
from queuectl.job import ENDED, Job, JobFilter, Run
from queuectl.recovery import live_workers

#: Instants that the store and ``date`` note differ by rounding alone.
SLACK_S = 0.001
#: Runs with these ends have left nothing running; one that completed or failed may leave children alone.
LEAVES_NOTHING = ("timed_out", "cancelled", "stopped", "lost")

_NOTE = 'note() {{ echo "$QUEUECTL_JOB_ID $QUEUECTL_RUN_ID $1 $(date +%s.%N)" >> {log}; }}; '


class Record(NamedTuple):
    """One line that a command wrote."""

    position: int  # of the line in the file
    job_id: str
    run_id: int
    what: str  # start, end, or anything between
    at: Optional[float]  # Unix seconds; None if ``date`` was killed before it could say


def recorded(body: str, log: Union[str, Path]) -> str:
    """Return the command that runs *body* and notes start and end in *log*; *body* may call ``note WORD``."""
    return _NOTE.format(log=log) + f"note start; {body or ':'}\ncode=$?; note end; exit $code"


def read_records(log: Union[str, Path]) -> List[Record]:
    """Return what the commands have written so far, in whole lines; a file that is not there yet is empty."""
    try:
        lines = Path(log).read_text(encoding="ascii").split("\n")[:-1]
    except FileNotFoundError:
        return []
    records = []
    for position, line in enumerate(lines, 1):
        fields = line.split()
        at = float(fields[3]) if len(fields) > 3 else None
        records.append(Record(position, fields[0], int(fields[1]), fields[2], at))
    return records


def problems(
    store: Store,
    records: Optional[Sequence[Record]] = None,
    acknowledged: Optional[Iterable[str]] = None,
    ended: bool = True,
    gapless: bool = True,
) -> List[str]:
    """Return what is wrong, one sentence each; nothing if all is as it has to be.

    Args:
        store: What the queue believes.
        records: What the commands noted; None: they noted nothing. Jobs whose command does not note are
            judged by the store alone.
        acknowledged: Ids that an enqueue has answered.
        ended: Whether every job has to have ended by now.
        gapless: Whether no generated job was deleted, so that the numbers must have no gap.
    """
    jobs = _all_jobs(store)
    known = all_runs(store)
    runs = {job.id: known.get(job.id, []) for job in jobs}
    found = [problem.what for problem in store.check()]
    found += _missing(jobs, acknowledged or ())
    found += _gaps(jobs) if gapless else []
    found += _unended(jobs) if ended else []
    found += _orphans(store, jobs)
    for job in jobs:
        found += _misnumbered(job, runs[job.id])
        found += _miscounted(job, runs[job.id])
        found += _overlapping_in_store(job, runs[job.id])
    if records is not None:
        found += _contradictions(jobs, runs, records)
        found += _overlapping(records)
    return found


def _all_jobs(store: Store) -> List[Job]:
    jobs: List[Job] = []
    while True:
        page = store.jobs(JobFilter(), jobs[-1].seq if jobs else 0, 1000)
        jobs += page
        if len(page) < 1000:
            return jobs


def all_runs(store: Store) -> Dict[str, List[Run]]:
    """Return every job's runs, first to last, as ``Store.runs`` does; read at once, as thousands of looks take long."""
    port, tables = store.port(), {table.name: table for table in TABLES}
    rows = {row[0]: row for row in port.rows(tables["runs"], None, None, None)}
    columns = tables["jobs"].columns
    job_id, last_run_id = columns.index("id"), columns.index("last_run_id")
    found: Dict[str, List[Run]] = {}
    for job in port.rows(tables["jobs"], None, None, None):
        runs = found[job[job_id]] = []
        run_id = job[last_run_id]
        while run_id in rows:
            row = rows.pop(run_id)  # no run is of two jobs
            runs.insert(0, Run(row[0], job[job_id], *row[2:]))
            run_id = row[1]
    return found


# -- what the store says ----------------------------------------------------------------------


def _missing(jobs: Sequence[Job], acknowledged: Iterable[str]) -> List[str]:
    known = {job.id for job in jobs}
    return [f"{job_id} was acknowledged and is gone" for job_id in acknowledged if job_id not in known]


def _gaps(jobs: Sequence[Job]) -> List[str]:
    numbers = sorted(int(job.id[3:]) for job in jobs if job.id.startswith("job") and job.id[3:].isdigit())
    missing = set(range(1, len(numbers) + 1)) - set(numbers)
    return [f"no job has the id job{number}" for number in sorted(missing)]


def _unended(jobs: Sequence[Job]) -> List[str]:
    return [f"{job.id} has not ended: it is {job.state}" for job in jobs if job.state not in ENDED]


def _orphans(store: Store, jobs: Sequence[Job]) -> List[str]:
    live = {worker.id for worker in live_workers(store)}
    return [
        f"{job.id} is processing under worker {job.worker_id}, which is not alive"
        for job in jobs
        if job.state == "processing" and job.worker_id not in live
    ]


def _misnumbered(job: Job, runs: Sequence[Run]) -> List[str]:
    found = []
    if [run.number for run in runs] != list(range(1, job.run_no + 1)):
        found.append(f"{job.id} has begun {job.run_no} runs, but the store has {[run.number for run in runs]}")
    if any(later.run_id <= earlier.run_id for earlier, later in zip(runs, runs[1:])):
        found.append(f"the run ids of {job.id} do not grow: {[run.run_id for run in runs]}")
    return found


def _miscounted(job: Job, runs: Sequence[Run]) -> List[str]:
    """Compare a job's state and counts with its runs since the enqueue or the last retry by hand."""
    states = [run.state for run in runs[len(runs) - job.attempts :]]
    found = []
    if job.attempts != len(states):
        found.append(f"{job.id} counts {job.attempts} attempts, but had {len(states)} runs")
    completions = states.count("completed")
    if completions != (job.state == "completed") or (completions and states[-1] != "completed"):
        found.append(f"{job.id} is {job.state} with {completions} accepted completions: {', '.join(states)}")
    if states.count("running") != (job.state == "processing"):
        found.append(f"{job.id} is {job.state} with {states.count('running')} open runs")
    failures = states.count("failed") + states.count("timed_out")
    if job.failures != failures:
        found.append(f"{job.id} counts {job.failures} failures, but {failures} of its runs failed")
    if job.failures > job.max_retries + 1:
        found.append(f"{job.id} failed {job.failures} times, with {job.max_retries} retries allowed")
    if job.state == "dead" and job.failures <= job.max_retries and states[-1:] != ["lost"]:
        found.append(f"{job.id} is dead after {job.failures} failures, with {job.max_retries} retries allowed")
    return found


def _overlapping_in_store(job: Job, runs: Sequence[Run]) -> List[str]:
    found = []
    for earlier, later in zip(runs, runs[1:]):
        if earlier.ended_at is None or later.started_at < earlier.ended_at - SLACK_S:
            found.append(f"by the store, run {later.number} of {job.id} began before run {earlier.number} had ended")
    return found


# -- what the commands say --------------------------------------------------------------------


def _contradictions(jobs: Sequence[Job], runs: Dict[str, List[Run]], records: Sequence[Record]) -> List[str]:
    """Compare the commands' notes with the store's runs."""
    found = []
    notes: Dict[int, List[Record]] = {}
    for record in records:
        notes.setdefault(record.run_id, []).append(record)
    owner = {run.run_id: job.id for job in jobs for run in runs[job.id]}
    for run_id, of_run in notes.items():
        strangers = {record.job_id for record in of_run} - {owner.get(run_id)}
        if strangers:
            found.append(f"run {run_id} is noted by {', '.join(strangers)}, but is {owner.get(run_id, 'nobody')}'s")
        for what in ("start", "end"):
            times = sum(record.what == what for record in of_run)
            if times > 1:
                found.append(f"run {run_id} of {owner.get(run_id)} noted its {what} {times} times")
    for job in jobs:
        for run in runs[job.id] if "QUEUECTL_RUN_ID" in job.command else ():
            found += _contradiction(job, run, notes.get(run.run_id, []))
    return found


def _contradiction(job: Job, run: Run, notes: Sequence[Record]) -> List[str]:
    name = f"run {run.run_id} of {job.id}"
    found = []
    noted = {record.what for record in notes}
    if run.state == "completed" and not noted >= {"start", "end"}:
        found.append(f"{name} is completed, but its command noted only: {', '.join(sorted(noted)) or 'nothing'}")
    stamps = [record.at for record in notes if record.at is not None]
    if stamps and min(stamps) < run.started_at - SLACK_S:
        found.append(f"{name} noted something {run.started_at - min(stamps):.3f} s before it was claimed")
    if stamps and run.state in LEAVES_NOTHING and run.ended_at is not None and max(stamps) > run.ended_at + SLACK_S:
        found.append(f"{name} is {run.state}, but noted something {max(stamps) - run.ended_at:.3f} s after its end")
    return found


def _overlapping(records: Sequence[Record]) -> List[str]:
    """Find runs of one job of which the earlier one noted something after the later one had begun."""
    found = []
    by_job: Dict[str, Dict[int, List[Record]]] = {}
    for record in records:
        by_job.setdefault(record.job_id, {}).setdefault(record.run_id, []).append(record)
    for job_id, by_run in by_job.items():
        order = sorted(by_run)
        for earlier, later in zip(order, order[1:]):
            begin = by_run[later][0]
            last = by_run[earlier][-1]
            stamps = [record.at for record in by_run[earlier] if record.at is not None]
            if last.position > begin.position or (begin.at is not None and stamps and max(stamps) > begin.at):
                found.append(f"runs {earlier} and {later} of {job_id} overlap")
    return found


def main(argv: Sequence[str]) -> int:
    """Judge a store and a log; print what is wrong and return 1, or 0 if nothing is."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--db", help="the store (default: as queuectl finds it)")
    parser.add_argument("--log", help="what the commands noted")
    parser.add_argument("--acknowledged", help="ids that an enqueue has answered, one a line")
    parser.add_argument("--running", action="store_true", help="jobs may still wait or run")
    given = parser.parse_args(argv)
    acknowledged = Path(given.acknowledged).read_text().split() if given.acknowledged else ()
    store = open_store(given.db, create=False)
    found = problems(store, read_records(given.log) if given.log else None, acknowledged, ended=not given.running)
    store.close()
    print("\n".join(found) or "nothing is wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
