"""Checked jobs on their way to a store: a file takes them when they become many, so that memory stays as it was.

The file has no name, and is gone with its process, however that ends.
"""

from __future__ import annotations

from operator import attrgetter

from queuectl.errors import QueuectlError, why
from queuectl.jobspec import JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Callable, Collection, Iterator, List, Optional, Union

    Specs = Union["Spool", Collection[JobSpec]]

# So many jobs are kept in memory; beyond, they are written and read so many at a time.
CHUNK = 10_000
_FIELDS = (
    "command", "cwd", "id", "queue", "priority", "max_retries", "backoff_base", "timeout_s", "run_at", "delay_s",
    "env", "tags", "after",
)  # fmt: skip
_fields_of = attrgetter(*_FIELDS)


class Spool:
    """A row of jobs that grows at its end, and can be read again and again."""

    def __init__(self) -> None:
        self.given: List[str] = []  # the ids that callers gave, in order
        self.any_after = False  # whether any of the jobs is to wait for others
        #: Called while the jobs are read, with how many have been.
        self.tell: Optional[Callable[[int], None]] = None
        self._last: List[JobSpec] = []
        self._file: Optional[IO[bytes]] = None
        self._places: List[int] = []  # where in the file each chunk begins

    def append(self, spec: JobSpec) -> None:
        """Add a job at the end."""
        if len(self._last) == CHUNK:
            self._write()
        self._last.append(spec)
        if spec.id is not None:
            self.given.append(spec.id)
        if spec.after:
            self.any_after = True

    def __len__(self) -> int:
        return len(self._places) * CHUNK + len(self._last)

    def __iter__(self) -> Iterator[JobSpec]:
        done = 0
        for place in self._places:
            assert self._file is not None
            import marshal

            self._file.seek(place)
            for fields in marshal.load(self._file):
                yield JobSpec(*fields)
            done += CHUNK
            if self.tell is not None:
                self.tell(done)
        yield from self._last

    def _write(self) -> None:
        rows = [_fields_of(spec) for spec in self._last]
        import marshal

        try:
            data = marshal.dumps(rows)
        except ValueError:  # a kind of text or number of the caller's own
            data = marshal.dumps(_plain(rows))
        try:
            if self._file is None:
                from tempfile import TemporaryFile

                self._file = TemporaryFile(prefix="queuectl-")  # noqa: SIM115
            place = self._file.seek(0, 2)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise QueuectlError(
                f"cannot keep so many jobs in a temporary file: {why(error)}. Nothing was enqueued. "
                "TMPDIR names a directory with more room."
            ) from error
        self._places.append(place)
        self._last = []

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


def _plain(value: Any) -> Any:
    """Return *value* with text, numbers and containers of Python's own kinds in the place of those made from them."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, str):
        return str.__str__(value)
    return int(value) if isinstance(value, int) else float(value) if isinstance(value, float) else value
