"""The part of the Python API that waits: for a job's end, for its output; ``Queue`` inherits it."""

from __future__ import annotations

import time

from queuectl.errors import JobNotFound, QueuectlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from typing import Callable, Dict, Generator, Iterable, Iterator, List, Optional

    from queuectl.db.base import Store
    from queuectl.job import Job, Run

# How long a waiting call sleeps between two looks: quick at first, then gently.
FIRST_LOOK_S = 0.005
LAST_LOOK_S = 0.1


class Following:
    """Looks at jobs, again and again, until there is something to tell."""

    _lock: threading.RLock

    @property
    def store(self) -> Store:
        """The store of this process."""
        raise NotImplementedError

    def get(self, job_id: str) -> Job:
        """Return a job; see ``Queue.get``."""
        raise NotImplementedError

    def runs(self, job_id: str) -> List[Run]:
        """Return all runs of a job, first to last."""
        raise NotImplementedError

    def output(self, job_id: str, run: Optional[int] = None) -> bytes:
        """Return what a run wrote (default: the last run), with a line where the middle was cut out.

        Raises:
            JobNotFound, QueuectlError: No such job, or no such run.
        """
        from queuectl.runner.output import joined

        chosen = self._run(job_id, run)
        with self._lock:
            parts = self.store.output(chosen.run_id) if chosen else []
        return b"".join(joined(parts, 0))

    def follow(self, job_id: str, run: Optional[int] = None) -> Iterator[bytes]:
        """Yield a run's output as it comes, to the run's end; wait for its start if it has not begun.

        Without *run*, the current or last run; of a job that waits for its first run, the first.

        Raises:
            JobNotFound, QueuectlError: No such job, or no such run.
        """
        from queuectl.patience import Patient

        with self._lock, Patient(self.store):
            chosen = self._run(job_id, run)
        yield from self.follow_next(job_id, 0 if chosen is None else chosen.number - 1)

    def follow_next(self, job_id: str, after: int) -> Generator[bytes, None, int]:
        """Yield the output of the first run behind run number *after*, as ``follow`` does; return that run's number.

        A run may vanish: a worker claims jobs ahead, and gives back those that it does not get to, as if they had not
        been claimed. The next claim's run then has the same number. If the job ends without one, *after* is returned.
        """
        from queuectl.job import ENDED
        from queuectl.patience import Patient
        from queuectl.runner.output import joined

        run_id, end = 0, 0  # of the run that was there at the last look
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
                    run_id, end = chosen.run_id, 0
                parts = self.store.output(run_id, end) if run_id else []
            if chosen is not None:
                yield from joined(parts, end)
                if chosen.state != "running":  # all that it wrote came with its end, or before
                    return chosen.number
                if parts:
                    end = parts[-1][0] + len(parts[-1][1])
                    sleep_s = FIRST_LOOK_S
            elif has_ended:
                return after
            sleep_s = self._nap(sleep_s)

    def _run(self, job_id: str, number: Optional[int]) -> Optional[Run]:
        runs = self.runs(job_id)
        if number is None:
            return runs[-1] if runs else None
        for run in runs:
            if run.number == number:
                return run
        had = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        raise QueuectlError(f"{job_id} has had {had}; there is no run {number}.")

    def _nap(self, sleep_s: float) -> float:
        """Sleep until the next look is worth it; return how long to sleep after it."""
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

        Raises:
            TimeoutError: It had not ended after *timeout* seconds.
            StoreUnavailable: The database server has been away for five minutes, or as long as *timeout* is.
            JobNotFound: There is no such job, or it was deleted meanwhile.
        """
        return self.wait_all([job_id], timeout)[0]

    def wait_all(
        self, job_ids: Iterable[str], timeout: Optional[float] = None, tick: Optional[Callable[[], None]] = None
    ) -> List[Job]:
        """Wait until all of *job_ids* have ended; as ``wait``. *tick* is called between looks.

        Each job is returned as it was when its end was seen: until the last one has ended, the first may have been
        deleted, by its age say, or run again.
        """
        from queuectl.job import ENDED
        from queuectl.patience import Patient, deadline_of, several

        deadline = deadline_of(timeout)
        job_ids = several(job_ids)
        open_ids = list(dict.fromkeys(job_ids))
        seen: Dict[str, Job] = {}
        sleep_s = FIRST_LOOK_S
        while True:
            with self._lock, Patient(self.store, deadline):
                states = self.store.states(open_ids)
                for job_id in open_ids:
                    if job_id not in states:
                        raise JobNotFound(job_id)
                ended_ids = [job_id for job_id in open_ids if states[job_id] in ENDED]
                if ended_ids:
                    seen.update(self.store.find(ended_ids))
                    for job_id in ended_ids:
                        if job_id not in seen:
                            raise JobNotFound(job_id)
                open_ids = [job_id for job_id in open_ids if job_id not in seen or seen[job_id].state not in ENDED]
                if not open_ids:
                    self.store.sync()  # an end that was told must survive a loss of power
                    return [seen[job_id] for job_id in job_ids]
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{', '.join(open_ids[:5])} had not ended after {timeout} s.")
            if tick is not None:
                tick()
            if deadline is not None:
                sleep_s = min(sleep_s, max(deadline - time.monotonic(), 0.0))
            sleep_s = self._nap(sleep_s)
