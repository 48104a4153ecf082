"""``metrics``: figures of the store in Prometheus's text format, once or over HTTP."""

from __future__ import annotations

import signal
import sys
import threading

from queuectl.cli_commands.spec import Command, Kind, Option
from queuectl.errors import MissingExtra, QueuectlError, why
from queuectl.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

    from queuectl.cli_commands.spec import Args

# How often the main thread of a server looks whether it is to stop: Windows does not wake it for a Ctrl-C.
LOOK_S = 0.5


def metrics(args: Args) -> int:
    """``metrics``."""
    figures = Figures(args.db, args.may_make_store, raises=args.listen is None)
    registry = _registry(figures)
    if args.listen is not None:
        return _serve(registry, args.listen, bool(args.quiet))
    from prometheus_client import generate_latest

    sys.stdout.write(generate_latest(registry).decode())
    return 0


def _registry(figures: Figures) -> Any:
    """Return what collects *figures* anew each time it is asked.

    Raises:
        MissingExtra: The client library is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise MissingExtra("metrics", "prometheus-client", "metrics") from None
    registry = CollectorRegistry()
    registry.register(figures)
    return registry


class Figures:
    """Collects the figures of one store; may be used by several threads at once.

    With *raises*, it fails if the store cannot be read, rather than to say so in the figures.
    """

    def __init__(self, db: Any, create: bool, raises: bool) -> None:
        self._raises = raises
        self._db = db
        self._create = create
        self._said = ""

    def describe(self) -> List[Any]:
        """Return nothing: the store is not to be read when this is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the figures as they are now; if the store cannot be read, only that it cannot."""
        families: List[Any] = []
        try:
            with Queue(self._db, create=self._create) as queue:
                families = list(_families(queue))
            self._said = ""
        except QueuectlError as error:
            if self._raises:
                raise
            if str(error) != self._said:  # the next time somebody asks it is the same
                from queuectl.render import note

                self._said = str(error)
                note(self._said)
        yield _gauge("up", "Whether the store could be read.", [((), float(bool(families)))])
        yield from families


def _gauge(name: str, meaning: str, values: Iterable[Tuple[Sequence[str], float]], *labels: str) -> Any:
    """Return a metric with a value for each tuple of labels."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily("queuectl_" + name, meaning, labels=labels)
    for of_labels, value in values:
        family.add_metric(of_labels, value)
    return family


def _families(queue: Queue) -> Iterator[Any]:
    from queuectl.job import STATES

    queues, depths, status = queue.queues(), queue.depths(), queue.status()
    counts = [((each.name, state), getattr(each, state)) for each in queues for state in STATES]
    yield _gauge("jobs", "Jobs by queue and state.", counts, "queue", "state")
    for name, field, meaning in _OF_QUEUES:
        values = [((each.queue,), float(getattr(each, field) or 0)) for each in depths]
        yield _gauge(name, meaning, values, "queue")
    limits = [((each.queue,), each.max_running) for each in depths if each.max_running is not None]
    yield _gauge("queue_limit", "How many jobs of the queue may run at once, if it has a limit.", limits, "queue")
    workers: Dict[Tuple[str, ...], float] = {}
    slots: Dict[Tuple[str, ...], float] = {}
    for worker in status.workers:
        host = (worker.host,)
        workers[host] = workers.get(host, 0) + 1
        slots[host] = slots.get(host, 0) + worker.concurrency
    yield _gauge("workers", "Live workers.", workers.items(), "host")
    yield _gauge("worker_slots", "How many jobs the live workers may run at once.", slots.items(), "host")
    rates = [(("completed",), status.rates.completed_per_min), (("failed",), status.rates.failed_per_min)]
    yield _gauge("runs_per_minute", "Runs that ended lately, per minute.", rates, "outcome")


# The metric, the field of a depth, what it means.
_OF_QUEUES = (
    ("due_jobs", "due", "Jobs that could run now."),
    ("delayed_jobs", "delayed", "Jobs that wait for a time, for a retry or for other jobs."),
    ("oldest_due_age_seconds", "oldest_due_age_s", "How long ago the earliest run_at of a due job was; 0 if none is."),
    ("queue_paused", "paused", "Whether the queue is paused."),
)


def _serve(registry: Any, address: Tuple[str, int], quiet: bool) -> int:
    """Answer over HTTP until SIGINT or SIGTERM."""
    from prometheus_client import start_http_server

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise QueuectlError(f"cannot listen on {_shown(host, port)}: {why(error)}. Give another --listen.") from error
    if not quiet:
        print(f"Metrics at http://{_shown(host, server.server_port)}/metrics", flush=True)
    while not stop.wait(LOOK_S):
        pass
    server.shutdown()
    thread.join()
    server.server_close()
    return 0


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(text: str) -> Tuple[str, int]:
    """Return the host and port that ``9464``, ``0.0.0.0:9464`` or ``[::1]:9464`` means."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) < 6 and int(port) <= 65535
    if not is_port or (colon and not bare) or (":" in host) != (bare != host):
        raise ValueError(text)
    return bare or "127.0.0.1", int(port)


COMMANDS = (
    Command(
        "metrics",
        metrics,
        options=[
            Option(
                "--listen",
                "serve them over HTTP until Ctrl-C, on this port of 127.0.0.1 or at this address",
                "[HOST:]PORT",
                Kind(_address, "a port such as 9464, or a host and port such as 0.0.0.0:9464"),
            ),
        ],
        examples=[("queuectl metrics", ""), ("queuectl metrics --listen 9464", "for Prometheus to scrape")],
        details="Prints figures of the queues and workers in Prometheus's text format. Needs 'queuectl[metrics]'.",
        exit_codes=[(1, "the store could not be read, or the address not be listened on")],
    ),
)
