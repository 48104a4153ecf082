"""New jobs as lines of the text format in which PostgreSQL's COPY takes rows."""

from __future__ import annotations

from queuectl.db.rules import to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, Iterator, List, Optional, Sequence

    from queuectl.db.spool import Specs

COPY_BYTES = 256 * 1024
NULL = "\\N"


def copy_lines(
    specs: Specs, ids: Sequence[str], token: int, now: float, default: int, counts: Dict[str, int]
) -> Iterator[str]:
    """Yield the lines of COPY's text format for new jobs; count them by queue on the way."""
    common = f"\t{now!r}\t{now!r}\t{token}\n"
    now_ready = f"1\t{now!r}"
    for spec, job_id in zip(specs, ids):
        queue = spec.queue
        counts[queue] = counts.get(queue, 0) + 1
        if spec.delay_s is None and spec.run_at is None:
            when = now_ready
        else:
            run_at = float(now + spec.delay_s if spec.delay_s is not None else spec.run_at or 0.0)
            when = f"{1 if run_at <= now else 2}\t{run_at!r}"
        retries = default if spec.max_retries is None else spec.max_retries
        env = escape(to_json(spec.env)) if spec.env else NULL
        tags = escape(to_json(spec.tags)) if spec.tags else NULL
        timeout = NULL if spec.timeout_s is None else repr(float(spec.timeout_s))
        base = NULL if spec.backoff_base is None else repr(float(spec.backoff_base))
        yield (
            f"{job_id}\t{queue}\t{when}\t{spec.priority}\t{retries}\t{escape(spec.command)}\t{escape(spec.cwd)}"
            f"\t{env}\t{tags}\t{timeout}\t{base}{common}"
        )


def escape(text: Optional[str]) -> str:
    """Return *text* as a field of COPY's text format."""
    if text is None:
        return NULL
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\n" in text or "\t" in text or "\r" in text:
        text = text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return text


def blocks(lines: Iterable[str]) -> Iterator[bytes]:
    """Join *lines* to pieces worth sending."""
    some: List[str] = []
    size = 0
    for line in lines:
        some.append(line)
        size += len(line)
        if size >= COPY_BYTES:
            yield "".join(some).encode()
            some, size = [], 0
    yield "".join(some).encode()
