"""One connection to a PostgreSQL server: open it, in a thread if need be, and wait for answers a bounded time."""

from __future__ import annotations

import logging
import select
import sys
import threading
import time
from functools import lru_cache

import psycopg
from psycopg.types.array import ListBinaryDumper, ListDumper
from psycopg.types.bool import BoolBinaryDumper, BoolDumper, BoolLoader
from psycopg.types.numeric import (
    FloatBinaryDumper,
    FloatDumper,
    FloatLoader,
    IntBinaryDumper,
    IntDumper,
    IntLoader,
)
from psycopg.types.string import (
    ByteaLoader,
    BytesBinaryDumper,
    BytesDumper,
    StrBinaryDumper,
    StrDumperUnknown,
    TextLoader,
)

from queuectl.errors import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Generator, List, Optional, Tuple

# psycopg caches how it converts a statement of up to this many characters; a longer one it would convert each time.
MOST_REMEMBERED = 4096
# A constraint that only a copy meets, of tables of a store that is being copied into.
COPIED_INTO = "this_store_is_an_unfinished_copy"
LOOK_S = 0.1  # how often a wait for a new connection is interrupted
# How long the server may take to accept that a statement is cancelled after a Ctrl-C, and then to end it. psycopg waits
# five seconds for each, and 3.2 for ever for the second.
CANCEL_S = 2.0
NO_PASSWORD = "it needs a password, and there is none in PGPASSWORD or in ~/.pgpass (which must have mode 0600)"


# What statements here are given and answer, as psycopg converts it of its own accord. Of two, the last is its choice.
_DUMPERS = (
    (bool, BoolDumper),
    (bool, BoolBinaryDumper),
    (bytes, BytesDumper),
    (bytes, BytesBinaryDumper),
    (float, FloatDumper),
    (float, FloatBinaryDumper),
    (int, IntDumper),
    (int, IntBinaryDumper),
    (list, ListBinaryDumper),
    (list, ListDumper),
    (str, StrBinaryDumper),
    (str, StrDumperUnknown),
)
_LOADERS = (
    ("bool", BoolLoader),
    ("bytea", ByteaLoader),
    ("float8", FloatLoader),
    ("int4", IntLoader),
    ("int8", IntLoader),
    ("name", TextLoader),
    ("text", TextLoader),
)

# psycopg reports what it ignores, such as a second error of a COPY, by ``logging``, which prints it where a program has
# not set logging up: among the lines of a command.
logging.getLogger("psycopg").addHandler(logging.NullHandler())


def boot_s() -> float:
    """Return the seconds of a clock that never goes back, and on Linux goes on while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class ConnectionLost(StoreUnavailable):
    """The connection broke during a call. With *committing*, the change may have been made all the same."""

    def __init__(self, location: str, why: str, committing: bool = False) -> None:
        hint = " It is not known whether the change was made." if committing else ""
        super().__init__(f"lost the connection to {location}: {why}.{hint}")
        self.why = why


class NoAnswer(psycopg.OperationalError):  # type: ignore[misc,unused-ignore]
    """The server did not answer in time."""


class Line(psycopg.Connection):  # type: ignore[type-arg,misc,unused-ignore]
    """A connection that waits for each answer for ``patience_s`` seconds at most; None: without limit."""

    patience_s: Optional[float] = None
    #: See ``Store``; for as long as ``patience_s`` is set.
    meanwhile: Optional[Callable[[], None]] = None
    #: How long the server waits for a lock, if that was set; see ``PostgresLink``.
    locks_s: Optional[float] = None

    def execute(self, query: Any, params: Any = None, *, prepare: Optional[bool] = None, binary: bool = False) -> Any:
        """Run a statement and return its cursor."""
        if len(query) <= MOST_REMEMBERED or not isinstance(params, dict):
            return super().execute(query, params, prepare=prepare, binary=binary)
        text, names = numbered(query)
        cursor = psycopg.RawCursor(self)
        return cursor.execute(text, [params[name] for name in names], prepare=prepare, binary=binary)

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for *gen*, a generator by which psycopg does one exchange with the server."""
        before = sys.exc_info()[1]
        try:
            return super().wait(_bounded(gen, self.patience_s, self.meanwhile), *args, **kwargs)
        except psycopg.Error as error:
            if isinstance(error, NoAnswer):
                self.close()  # a late answer would be taken for that to the next statement
            raised = raised_by_handler(error, before)
            if raised is not None:  # after a Ctrl-C, psycopg waits on for the end of the statement, which failed then
                raise raised from None
            raise

    def cancel_safe(self, *, timeout: float = CANCEL_S) -> None:
        """Have the server end what it is doing; psycopg calls this after a Ctrl-C."""
        super().cancel_safe(timeout=min(timeout, CANCEL_S))


@lru_cache(128)
def numbered(query: str) -> Tuple[str, List[str]]:
    """Return *query* with ``$1`` etc. for ``%(name)s``, as the server wants it, and the names in this order.

    *query* must not contain any other per cent sign.
    """
    names: Dict[str, int] = {}
    first, *rest = query.split("%(")
    parts = [first]
    for each in rest:
        name, _, text = each.partition(")s")
        parts.append(f"${names.setdefault(name, len(names) + 1)}{text}")
    return "".join(parts), list(names)


def _bounded(
    gen: Any, patience_s: Optional[float], meanwhile: Optional[Callable[[], None]]
) -> Generator[Any, Any, Any]:
    """Run *gen*, and raise NoAnswer once nothing has arrived for *patience_s* seconds; call *meanwhile* until then.

    While psycopg waits, it sends "not ready" to the generator a few times a second. When it waits once more, for the
    end of a statement that it has cancelled after a Ctrl-C, it sends None: from then on it is CANCEL_S at most.
    """
    most_s = float("inf") if patience_s is None else patience_s
    deadline = time.monotonic() + most_s
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready is None:
                most_s = min(most_s, CANCEL_S)
            if ready or ready is None:
                deadline = time.monotonic() + most_s
            elif time.monotonic() > deadline:
                raise NoAnswer(f"no answer for {most_s:.1f} s")
            elif patience_s is not None and meanwhile is not None:
                meanwhile()
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value


class Opening:
    """An attempt to connect, made in a thread."""

    def __init__(self, parameters: Dict[str, str]) -> None:
        self.done = threading.Event()
        self.waited_for = False  # whether a caller has waited for it in vain
        self._parameters = parameters
        self._line: Optional[Line] = None
        self._error: Optional[BaseException] = None
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError as error:  # the limit of processes is reached: a later attempt may succeed
            self._error = psycopg.OperationalError(str(error))
            self.done.set()

    def _work(self) -> None:
        try:
            self._line = connect(self._parameters)
        except psycopg.Error as error:
            self._error = error
        finally:
            self.done.set()

    def wait(self, patience_s: float, meanwhile: Optional[Callable[[], None]]) -> bool:
        """Wait for the end of the attempt for *patience_s* seconds at most; return whether it has ended."""
        deadline = time.monotonic() + patience_s
        while not self.done.wait(max(min(deadline - time.monotonic(), LOOK_S), 0)):
            if time.monotonic() >= deadline:
                return False
            if meanwhile is not None:
                meanwhile()
        return True

    def result(self, patience_s: float, meanwhile: Optional[Callable[[], None]]) -> Line:
        if self._line is None:
            raise self._error or psycopg.OperationalError("the attempt failed")
        self._line.patience_s, self._line.meanwhile = patience_s, meanwhile
        return self._line


def connect(parameters: Dict[str, str]) -> Line:
    """Open a connection that commits each statement by itself."""
    line: Line = Line.connect(autocommit=True, **parameters)  # type: ignore[arg-type,assignment,unused-ignore]
    convert_as_usual(line.adapters)
    return line


def convert_as_usual(adapters: Any) -> None:
    """Have psycopg convert as it does of its own accord, whatever the program around has it do.

    A list may be JSON there, a ``float8`` a ``Decimal``: for one connection, or for all.
    """
    for kind, dumper in _DUMPERS:
        adapters.register_dumper(kind, dumper)
    for name, loader in _LOADERS:
        adapters.register_loader(name, loader)


def is_lost(line: Any) -> bool:
    """Return whether *line* is broken; if it is idle, read what the server has sent meanwhile."""
    if line.closed:
        return True
    pgconn = line.pgconn
    try:
        for _ in range(3):  # enough for a last message and the end of the stream
            if pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE or not _readable(pgconn.socket):
                break
            pgconn.consume_input()
            pgconn.is_busy()
    except psycopg.Error:
        return True
    return bool(pgconn.status != psycopg.pq.ConnStatus.OK)


def _readable(fd: int) -> bool:
    if sys.platform == "win32":
        return bool(select.select([fd], [], [], 0)[0])
    look = select.poll()  # select() cannot take descriptors from 1024 on
    look.register(fd, select.POLLIN)
    return bool(look.poll(0))


def raised_by_handler(error: BaseException, before: Optional[BaseException]) -> Optional[BaseException]:
    """Return what a signal's handler raised in the driver, if that went on to *error*, one of its own; None if nothing.

    *before* is the exception that was being handled when the driver was called.
    """
    found: Optional[BaseException] = error
    while isinstance(found, Exception) and found is not before:
        found = found.__context__
    return None if found is before else found


def first_line(error: BaseException) -> str:
    """Return the first line of an error, without a final point."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def why_not_reached(error: BaseException, named: bool = True) -> str:
    """Return why a connection could not be opened, for the last of several hosts.

    With *named*, leave out the server's address: the caller's message names it.
    """
    import re

    what = re.sub("^connection (failed|is bad): ", "", first_line(error))
    if named and "Multiple connection attempts" not in str(error):
        what = re.sub(r'^connection to server at "[^"]*"( \([^)]*\))?, port \d+ failed: ', "", what)
    what = re.sub(r"\bFATAL: +", "", what)
    return re.sub(r"\bfe_sendauth: no password supplied$", NO_PASSWORD, what)


def refuse_copied_into(error: psycopg.Error, location: str) -> None:
    """Say so if *error* comes of a write to the store at *location*, which is being copied into."""
    if error.diag.constraint_name == COPIED_INTO:
        from queuectl.db.transfer import refuse_unfinished

        raise refuse_unfinished(location) from error
