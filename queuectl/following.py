"""The part of the Python API about single jobs, their output, and waiting for both; ``Queue`` inherits it."""

from __future__ import annotations

import time

from queuectl.errors import JobNotFound, QueuectlError, shown
from queuectl.forking import Forkable
from queuectl.jobspec import check_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Generator, Iterable, Iterator, List, Optional, Sequence, Tuple

    from queuectl.db.base import Part
    from queuectl.job import Job, Run

# So many jobs a waiting call looks at before it looks at the clock: some milliseconds.
LOOK = 5000
# How long a waiting call sleeps between two looks: the first sleep, and the longest.
FIRST_LOOK_S = 0.005
LAST_LOOK_S = 0.1
# After a look at very many jobs, a waiting call rests for this many times the CPU time that the look took.
REST = 5
# How many parts of an output are read at once: all of it may be a gigabyte.
PAGE_PARTS = 64
# How much of an output's end is read in search of its last lines: at first, and by how much more at each further look.
LINES_BYTES, LINES_FACTOR = 64 * 1024, 4
MOST_BYTES = 2**31 - 1  # more than a run can keep


def cut_bytes(parts: Sequence[Part], end: int) -> int:
    """Return how many bytes were cut out before and between *parts*, which follow offset *end*."""
    return parts[-1][0] - end - sum(len(data) for _, data in parts[:-1]) if parts else 0


def _end_of(parts: Sequence[Part], end: int) -> int:
    """Return the offset behind *parts*, which follow offset *end*."""
    return parts[-1][0] + len(parts[-1][1]) if parts else end


def _checked_lines(lines: Optional[int]) -> Optional[int]:
    if lines is not None and (type(lines) is not int or lines < 0):
        raise QueuectlError(f"lines must be a whole number from 0, or None for all of them, not {shown(lines)}.")
    return lines


def _rest(rest_s: float, deadline: Optional[float]) -> None:
    """Sleep *rest_s* seconds, until *deadline* at most; not at all if that is only a moment.

    Where others commit all the time, looks that take long would follow one another with hardly a pause.
    """
    if rest_s > LAST_LOOK_S:
        time.sleep(rest_s if deadline is None else min(rest_s, max(deadline - time.monotonic(), 0.0)))


class Following(Forkable):
    """The methods of ``Queue`` that look at jobs, once or until something has happened."""

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            JobNotFound: There is none with this id.
        """
        [job_id] = check_ids([job_id])
        with self._lock:
            job = self.store.get(job_id)
        if job is None:
            raise JobNotFound(job_id)
        return job

    def runs(self, job_id: str) -> List[Run]:
        """Return all runs of a job, first to last."""
        [job_id] = check_ids([job_id])
        with self._lock:
            runs = self.store.runs(job_id)
        if not runs:
            self.get(job_id)  # it has had none yet, or there is no such job
        return runs

    def output(self, job_id: str, run: Optional[int] = None, lines: Optional[int] = None) -> bytes:
        """Return what a run printed (default: the last run), with a note where the middle was cut out.

        *lines*: only its last so many lines, without reading what is before.

        Raises:
            JobNotFound, QueuectlError: No such job, or no such run.
        """
        return b"".join(self.output_pieces(job_id, run, lines))

    def output_pieces(self, job_id: str, run: Optional[int] = None, lines: Optional[int] = None) -> Iterator[bytes]:
        """Yield what ``output`` returns in pieces: all of it may not fit into memory."""
        from queuectl.runner.output import joined

        lines = _checked_lines(lines)
        chosen = self._run(job_id, run)
        end = 0 if chosen is None else self._begin_of(chosen, lines)
        more = chosen is not None
        while chosen is not None and more:
            with self._lock:
                parts = self.store.output(chosen.run_id, end, PAGE_PARTS)
            yield from joined(parts, end)
            more = len(parts) == PAGE_PARTS
            end = _end_of(parts, end)

    def _begin_of(self, run: Run, lines: Optional[int]) -> int:
        """Return the offset at which the last *lines* lines of a run's output begin; None: all of them."""
        if lines is None:
            return 0
        from queuectl.runner.output import begin_of_lines

        size = LINES_BYTES
        while True:
            with self._lock:
                parts = self.store.last_output(run.job_id, size, run.run_id)
            begin = begin_of_lines(parts, lines)
            if begin is not None:
                return begin
            if sum(len(data) for _, data in parts) < size:
                return 0
            size = min(size * LINES_FACTOR, MOST_BYTES)

    def follow(self, job_id: str, run: Optional[int] = None, lines: Optional[int] = None) -> Iterator[bytes]:
        """Yield the output of a run as it is printed, until the run ends.

        Without *run*, the run is the current or last one; if the job has had none, wait for the first to begin.
        *lines*: of what it has printed so far, only the last so many lines.

        Raises:
            JobNotFound, QueuectlError: No such job, or no such run.
        """
        from queuectl.patience import Patient

        lines = _checked_lines(lines)
        with self._lock, Patient(self.store):
            chosen = self._run(job_id, run)
        yield from self.follow_next(job_id, 0 if chosen is None else chosen.number - 1, lines=lines)

    def follow_next(
        self,
        job_id: str,
        after: int,
        tell_cut: Optional[Callable[[int], None]] = None,
        lines: Optional[int] = None,
    ) -> Generator[bytes, None, int]:
        """Yield the output of the first run whose number is above *after*, as ``follow`` does; return its number.

        *tell_cut* is called with how many bytes are missing in what was yielded since the last call, even 0.

        If the job ends without such a run, return *after*. A run may vanish: a worker claims jobs ahead, and gives
        back those that it does not get to as if they had not been claimed. The run of the next claim then has the
        same number.
        """
        from queuectl.job import ENDED
        from queuectl.patience import Patient
        from queuectl.runner.output import joined

        [job_id] = check_ids([job_id])
        run_id, end = 0, 0  # the run seen at the last look (0: none), and up to where its output has been yielded
        has_ended = False
        sleep_s = FIRST_LOOK_S
        while True:
            with self._lock, Patient(self.store):
                if not run_id:
                    has_ended = self.get(job_id).state in ENDED
                chosen = next((run for run in self.store.runs(job_id) if run.number > after), None)
                if chosen is None:
                    run_id = 0
                elif chosen.run_id != run_id:
                    run_id, end = chosen.run_id, self._begin_of(chosen, lines)
                parts = self.store.output(run_id, end, PAGE_PARTS) if run_id else []
            if chosen is not None:
                yield from joined(parts, end)
                if tell_cut is not None:
                    tell_cut(cut_bytes(parts, end))
                end = _end_of(parts, end)
                if len(parts) == PAGE_PARTS:
                    continue
                if chosen.state != "running":  # the store has all output of a run no later than its end
                    return chosen.number
                if parts:
                    sleep_s = FIRST_LOOK_S
            elif has_ended:
                return after
            sleep_s = self._nap(sleep_s)

    def _run(self, job_id: str, number: Optional[int]) -> Optional[Run]:
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise QueuectlError(f"a run must be given by its number, from 1, not {shown(number)}.")
        runs = self.runs(job_id)
        if number is None:
            return runs[-1] if runs else None
        for run in runs:
            if run.number == number:
                return run
        had = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        raise QueuectlError(f"{job_id} has had {had}; there is no run {shown(number)}.")

    def _nap(self, sleep_s: float) -> float:
        """Sleep *sleep_s* seconds, or less if the store changes; return how long to sleep after the next look."""
        from queuectl.patience import has_news

        deadline = time.monotonic() + sleep_s
        while time.monotonic() < deadline:
            time.sleep(min(sleep_s, FIRST_LOOK_S * 4))
            with self._lock:
                if has_news(self.store):
                    return FIRST_LOOK_S
        return min(sleep_s * 1.5, LAST_LOOK_S)

    def wait(self, job_id: str, timeout: Optional[float] = None) -> Job:
        """Wait until a job has ended (completed, dead or cancelled) and return it.

        A job that is held for one that is dead, cancelled or deleted is returned at once, pending: nothing that goes on
        will let it go.

        Raises:
            TimeoutError: The job had not ended after *timeout* seconds.
            StoreUnavailable: The database server was unavailable for five minutes, or for *timeout* if that is less.
            JobNotFound: There is no such job, or it was deleted meanwhile.
        """
        return self.wait_all([job_id], timeout)[0]

    def wait_all(
        self, job_ids: Iterable[str], timeout: Optional[float] = None, tick: Optional[Callable[[], None]] = None
    ) -> List[Job]:
        """Wait until all of *job_ids* have ended and return the jobs, in this order; see ``wait`` for errors.

        *tick* is called between two looks. Each job is returned as it was when its end was seen: by the time the last
        one has ended, the first may have been deleted or run again.
        """
        from queuectl.patience import Patient, StillOpen, check_function, deadline_of, several

        deadline = deadline_of(timeout)
        job_ids = several(job_ids)
        check_function("tick", tick)
        open_ids = list(dict.fromkeys(job_ids))
        seen: Dict[str, Job] = {}
        sleep_s = FIRST_LOOK_S
        while True:
            begun_s = time.thread_time()
            open_ids, unseen = self._look(open_ids, seen, deadline)
            if not open_ids:
                with self._lock, Patient(self.store, deadline):
                    self.store.sync()  # an end that the caller has learnt of must survive a loss of power
                return [seen[job_id] for job_id in job_ids]
            if unseen or (deadline is not None and time.monotonic() >= deadline):
                raise StillOpen(open_ids, unseen, timeout)
            rest_s = (time.thread_time() - begun_s) * REST
            if tick is not None:
                tick()
            _rest(rest_s, deadline)
            if deadline is not None:
                sleep_s = min(sleep_s, max(deadline - time.monotonic(), 0.0))
            sleep_s = self._nap(sleep_s)

    def _look(self, job_ids: List[str], seen: Dict[str, Job], deadline: Optional[float]) -> Tuple[List[str], int]:
        """Return those of *job_ids* that have not ended, and put the jobs of the others into *seen*.

        If one has not, the look is cut at *deadline*: then return those found so far, and how many were not looked at.
        """
        from queuectl.job import ENDED, WAITING
        from queuectl.patience import Patient

        open_ids: List[str] = []
        for first in range(0, len(job_ids), LOOK):
            if open_ids and deadline is not None and time.monotonic() >= deadline:
                return open_ids, len(job_ids) - first
            some = job_ids[first : first + LOOK]
            with self._lock, Patient(self.store, deadline):
                states = self.store.states(some)
                for job_id in some:
                    if job_id not in states:
                        raise JobNotFound(job_id)
                waiting = [job_id for job_id in some if states[job_id] in WAITING]
                stuck = self.store.stuck(waiting) if waiting else {}
                ended_ids = [job_id for job_id in some if states[job_id] in ENDED or job_id in stuck]
                if ended_ids:
                    seen.update(self.store.find(ended_ids))
                    for job_id in ended_ids:
                        if job_id not in seen:
                            raise JobNotFound(job_id)
            over = {job_id for job_id in ended_ids if seen[job_id].state in ENDED or seen[job_id].held}
            open_ids += [job_id for job_id in some if job_id not in over]
        return open_ids, 0
