"""The connection to a PostgreSQL store: open it, bound its waits, open it again; the server's clock; errors in words.

After a lost connection, only what may safely be done twice is repeated here: a read, or a transaction that had not
begun. A write that may have been done is never repeated; its caller knows how to find out.
"""

from __future__ import annotations

import os
import sys
import time

import psycopg

from queuectl.db.amid import Alone
from queuectl.db.postgres_line import (
    ConnectionLost,
    Opening,
    boot_s,
    connect,
    first_line,
    is_lost,
    raised_by_handler,
    refuse_copied_into,
    why_not_reached,
)
from queuectl.db.postgres_run import BEGIN, Run
from queuectl.db.postgres_session import PATIENCE_S, greet, refuse_session
from queuectl.errors import QueuectlError, QueueInUse, StoreRefused, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple, TypeVar, Union

    from queuectl.db.postgres import Address
    from queuectl.db.postgres_line import Line

    T = TypeVar("T")
    Parameters = Union[None, List[Any], Tuple[Any, ...], Dict[str, Any]]

OLDEST_SERVER = 130000
TRIES = 8  # how often a transaction is tried that was rolled back because of a deadlock
# How long to wait after a failed attempt to connect, at first and at most; each process waits its own random time.
FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 2.0
AWAY_LOOK_S = 0.1  # how often a caller that outlasts an outage tries whether it is over
# A worker waits for the server no longer than its lease divided by this. A call may wait twice, for an answer and for a
# new connection, and another call may have waited just before. Nor does it wait for days: the server refuses to.
PARTS_OF_LEASE, LONGEST_S = 6, 3600.0
# Close to the end of its lease, a worker must get to the point where it ends its commands, so calls wait no longer than
# HURRY_S. This holds until FENCED_S after the end; by then the commands have been ended, and calls may take their time.
HURRY_S = 0.25
FENCED_S = 1.0
CLOCK_AGE_S = 1.0  # how long a measurement of the server's clock is good enough; a worker measures at each renewal
CLOCK_DRIFT_S = 10.0  # after this time, a newer measurement counts even if its answer took longer
STEP_S = 0.5  # a clock that is further ahead than it can be, by this much, was set
ACTIVE = psycopg.pq.TransactionStatus.ACTIVE
AGAIN = ("40001", "40P01")  # serialization failure, deadlock
# What a server says of a statement that was prepared before the store's types were made anew, as when a backup is
# restored, or a column got another type: it was not done, and fails for as long as the session lasts. So it is done in
# another.
STALE = ("0A000", "42804", "XX000")
# Classes of errors by which a store is missing, may not be used, or could not be read together with the greeting.
NOT_AS_USUAL = ("42", "3F", "40")
LOST = ("08", "57P")  # the connection is broken; the server is shutting down, or has crashed


class PostgresLink:
    """The connection of a store; the base of ``PostgresStore``."""

    outlast_s, clock_set_mono = 0.0, float("-inf")  # see ``Store``
    meanwhile: Optional[Callable[[], None]] = None
    #: A statement that reads the state of the store; it fails if there is no complete store.
    _first_look = ""

    def __init__(self, address: Address) -> None:
        self.location = address.location
        self.schema = address.schema
        self._parameters = address.parameters
        # If not, the host comes from the environment or a service file, and errors have to name it.
        self._is_named = "host" in address.parameters or "hostaddr" in address.parameters
        self._line: Optional[Line] = None
        self._closed = False
        self._alone = Alone(self._left)
        #: Whether there is a pooler in between, so that session state and prepared statements cannot be used.
        self.pooled = False
        # Set for a worker, so that its lease does not end while a call waits.
        self._patience_s: Optional[float] = None
        self._lease_ends_mono = 0.0
        self._texts: Dict[str, str] = {}
        self._offset_s = self._most_offset_s = 0.0  # the server's clock minus ``boot_s``, measured; and at most
        self._measured_s: Optional[float] = None
        self._pause_s = self._not_before_s = 0.0
        self._trouble = self._snapshot = ""
        self._opening: Optional[Opening] = None

    # -- the connection -----------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; calling it twice is allowed."""
        self._closed = True
        if not self._alone.is_amid():  # else a signal's handler calls: the call that it has interrupted does the rest
            self._drop()

    def _left(self) -> None:
        if self._closed:  # amid the call
            self._drop()

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _at_rest(self) -> Line:
        """Return a connection, as ``_connected`` does, with no transaction open.

        A signal handler may have raised an exception before an earlier transaction was rolled back, and the program
        may have gone on. A write in that open transaction would seem to be done, and be undone with the connection.
        """
        line = self._connected()
        if line.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self._drop()
            line = self._connected()
        return line

    def _connected(self) -> Line:
        """Return a connection that is not known to be broken, opening one if need be.

        One on which a statement is under way is of no use either: a signal's handler raised while it was waited for.
        """
        if self._closed:
            raise StoreUnavailable(f"the store {self.location} is closed.")
        if self._line is not None and not is_lost(self._line) and self._line.pgconn.transaction_status != ACTIVE:
            self._line.patience_s, self._line.meanwhile = self._patience_now_s(), self.meanwhile
            self._bound_locks(self._line)
            return self._line
        self._drop()
        self._line = line = self._open()
        try:
            self._greet(line)
            self._bound_locks(line)
        except BaseException:
            self._drop()
            raise
        return line

    def _open(self) -> Line:
        """Open a new connection.

        A worker waits for it no longer than its patience lasts. The attempt, which may even hang in a name server,
        goes on in a thread of its own, and a later call takes the result.
        """
        now_s = time.monotonic()
        if now_s < self._not_before_s:
            raise StoreUnavailable(self._trouble)
        try:
            patience_s = self._patience_now_s()
            if patience_s is None:
                return connect(self._parameters)
            if self._opening is None:
                self._opening = Opening(self._parameters)
            opening = self._opening
            # If callers come here again and again, for each of many ends say, only the first waits.
            if not opening.wait(0.05 if opening.waited_for else patience_s, self.meanwhile):
                opening.waited_for = True
                raise StoreUnavailable(f"the server of {self.location} does not answer.")
            self._opening = None
            return opening.result(patience_s, self.meanwhile)
        except psycopg.Error as error:
            self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LAST_PAUSE_S)
            self._not_before_s = now_s + self._pause_s * (0.5 + os.urandom(1)[0] / 512)
            self._trouble = f"cannot reach {self.location}: {why_not_reached(error, self._is_named)}."
            raise StoreUnavailable(self._trouble) from error

    def _greet(self, line: Line) -> None:
        """Find out what server this is, prepare the session, read the state of the store; usually in one exchange."""
        try:
            sent_s = boot_s()
            try:
                server, seen = greet(line, self.text(self._first_look))
            except psycopg.Error as error:
                if not (error.sqlstate or "").startswith(NOT_AS_USUAL):
                    raise
                sent_s = boot_s()
                server, seen = greet(line)
            self._clock_is(server.clock_at, sent_s)
        except psycopg.Error as error:
            self._fail(error)
        if server.version < OLDEST_SERVER:
            raise StoreRefused(f"{self.location} is PostgreSQL {server.version // 10000}; queuectl needs 13 or newer.")
        if server.encoding != "UTF8":
            raise StoreRefused(
                f"the database of {self.location} has the encoding {server.encoding}. "
                "Create one for queuectl with ENCODING 'UTF8'."
            )
        self.pooled = server.pid != line.info.backend_pid
        if self.pooled:
            line.prepare_threshold = None
            refuse_session(self.location, server)
        self._arrived(line, seen)
        self._pause_s = 0.0

    def _bound_locks(self, line: Line) -> None:
        """Have the server stop waiting for a lock before this process stops waiting for the server.

        Otherwise the abandoned session would go on waiting for the lock, and so would that of each further connection.
        """
        patience_s = line.patience_s
        if patience_s is None or self.pooled:
            return
        if line.locks_s is None or not patience_s / 4 <= line.locks_s < patience_s:
            locks_s = patience_s * 0.8
            try:
                line.execute(f"SET lock_timeout = {locks_s * 1000:.0f}")
            except psycopg.Error as error:
                self._fail(error)
            line.locks_s = locks_s

    def _arrived(self, line: Line, seen: Optional[Tuple[Any, ...]]) -> None:
        """Check the store behind a new connection; *seen* is the answer to ``_first_look``, None if that failed."""
        raise NotImplementedError

    def be_patient(self, lease_s: float) -> None:
        """Bound the wait of each call from now on, so that a worker can end its commands before its lease ends."""
        self._patience_s = min(max(lease_s / PARTS_OF_LEASE, HURRY_S), LONGEST_S)

    def lease_ends(self, mono_s: float) -> None:
        """Note when the worker's lease ends, by the monotonic clock, and with it the time to end its commands."""
        self._lease_ends_mono = mono_s

    def _patience_now_s(self) -> Optional[float]:
        """Return how many seconds to wait for an answer now; None: without limit."""
        if self._patience_s is None:
            return None
        left_s = self._lease_ends_mono - time.monotonic()
        return self._patience_s if left_s < -FENCED_S else min(self._patience_s, max(left_s, HURRY_S))

    # -- statements ---------------------------------------------------------------------------

    def text(self, sql: str) -> str:
        """Return *sql*, which is written for the schema ``queuectl``, for the schema of this store."""
        if self.schema == "queuectl":
            return sql
        found = self._texts.get(sql)
        if found is None:
            found = self._texts[sql] = sql.replace("queuectl.", self.schema + ".")
        return found

    def _rows(self, sql: str, parameters: Parameters = None, prepare: Optional[bool] = None) -> List[Any]:
        """Run one statement that changes nothing and return its rows.

        After a lost connection the statement is run again; while the server is unavailable, for ``outlast_s`` seconds.
        """
        deadline = time.monotonic() + self.outlast_s
        while True:
            try:
                return self._look(sql, parameters, prepare)
            except StoreUnavailable:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(min(AWAY_LOOK_S, max(deadline - time.monotonic(), 0.0)))

    def _look(self, sql: str, parameters: Parameters, prepare: Optional[bool]) -> List[Any]:
        with self._alone:
            return self._look_alone(sql, parameters, prepare)

    def _look_alone(self, sql: str, parameters: Parameters, prepare: Optional[bool]) -> List[Any]:
        for last in (False, True):
            line = self._connected()
            try:
                rows: List[Any] = line.execute(self.text(sql), parameters, prepare=prepare).fetchall()
                return rows
            except psycopg.Error as error:
                if last or not (error.sqlstate in STALE or is_lost(line)):
                    self._fail(error)
                self._drop()
        raise AssertionError

    def _once(self, sql: str, parameters: Parameters = None, prepare: Optional[bool] = None) -> List[Any]:
        """Run one statement that writes, as a transaction of its own, and return its rows.

        Raises:
            ConnectionLost: The statement may have been done; the caller can repeat it, or find out.
        """
        with self._alone:
            return self._once_alone(sql, parameters, prepare)

    def _once_alone(self, sql: str, parameters: Parameters, prepare: Optional[bool]) -> List[Any]:
        for attempt in range(TRIES):
            line = self._at_rest()
            try:
                rows: List[Any] = line.execute(self.text(sql), parameters, prepare=prepare).fetchall()
                return rows
            except psycopg.Error as error:
                if error.sqlstate in STALE and not attempt:
                    self._drop()
                elif error.sqlstate not in AGAIN or attempt == TRIES - 1:
                    self._fail(error)
            self._nap(attempt)
        raise AssertionError

    def _nap(self, attempt: int) -> None:
        """Sleep a little, so that the other side of a deadlock goes first."""
        time.sleep(0.02 * (attempt + 1) * (0.5 + os.urandom(1)[0] / 255))

    def _write(self, body: Callable[[Run], T]) -> T:
        """Run *body* in a transaction and return what it returns. It is given a ``Run``, and may be called repeatedly.

        Raises:
            ConnectionLost: If it was lost during the commit, the message says that the change may have been made.
        """
        with self._alone:
            return self._write_alone(body)

    def _write_alone(self, body: Callable[[Run], T]) -> T:
        before = sys.exc_info()[1]
        again = True  # whether to start over on a new connection, once; if this one breaks, before the first answer
        for attempt in range(TRIES):
            line = self._at_rest()
            run: Optional[Run] = None
            committing = False
            try:
                run = self._begin(line)
                answer = body(run)
                if not run.answered:  # otherwise all would be sent with the commit, and might be done without an answer
                    run.flush()
                committing = True
                run("COMMIT")
                run.flush()
                return answer
            except psycopg.Error as error:
                raised = raised_by_handler(error, before)
                if raised is not None:
                    self._break_off(run)
                    raise raised from None
                stale = again and error.sqlstate in STALE
                again = again and (stale or run is None or not run.answered)
                self._break_off(run) if stale else self._roll_back(line, run)
                if again and is_lost(line):  # nothing was done: start over, on a new connection
                    again = False
                    continue
                if error.sqlstate not in AGAIN or attempt == TRIES - 1:
                    self._fail(error, committing)
            except QueuectlError as error:
                amid = isinstance(error, QueueInUse)  # a signal's handler let it out, into the middle of the driver
                self._break_off(run) if amid else self._roll_back(line, run)
                raise
            except BaseException:  # of a signal's handler, it may be: in the middle of what the driver keeps account of
                self._break_off(run)
                raise
            self._nap(attempt)
        raise AssertionError

    def _break_off(self, run: Optional[Run]) -> None:
        if run is not None:
            run.break_off()
        self._drop()

    def _begin(self, line: Line) -> Run:
        run = Run(self, line)
        try:
            run(BEGIN)
        except psycopg.Error:
            run.abandon()
            raise
        except BaseException:
            run.break_off()
            raise
        return run

    def _roll_back(self, line: Line, run: Optional[Run] = None) -> None:
        if run is not None:
            run.abandon()
        try:
            if not is_lost(line):
                line.rollback()  # unlike execute(), it has the driver forget which statements it takes for prepared
                return
        except psycopg.Error:
            pass
        self._drop()

    # -- errors -------------------------------------------------------------------------------

    def _fail(self, error: psycopg.Error, committing: bool = False) -> NoReturn:
        """Raise the QueuectlError that explains *error* to the user."""
        state = error.sqlstate or ""
        what = first_line(error)
        if state.startswith(LOST) or self._line is None or is_lost(self._line):
            self._drop()
            raise ConnectionLost(self.location, what, committing) from error
        refuse_copied_into(error, self.location)
        if state == "42501":
            raise self._not_allowed(what) from error
        if state.startswith("42") or state == "3F000":
            raise StoreRefused(
                f"{self.location} is not a complete queuectl store ({what}); it was left untouched."
            ) from error
        if state == "55P03":
            raise StoreUnavailable(
                f"the store {self.location} was busy for {self._line.locks_s or PATIENCE_S:.3g} s: "
                "another session holds a lock. Try again."
            ) from error
        if state == "25006":
            self._drop()  # after a failover the address leads to the new server soon, this connection never
            raise StoreUnavailable(f"{self.location} is read-only now: 'queuectl doctor' says why.") from error
        if state == "53100":
            raise StoreUnavailable(f"the disk of {self.location} is full; nothing was changed.") from error
        raise StoreUnavailable(f"the store {self.location} failed: {what}.") from error

    def _not_allowed(self, what: str) -> StoreRefused:
        """Return the error for a right that this role lacks."""
        return StoreRefused(
            f"this role is not allowed to do that in {self.location}: {what}. "
            "'Roles' in docs/how-to/postgres.md lists the rights that each kind of role needs."
        )

    # -- the clock ----------------------------------------------------------------------------

    def now(self) -> float:
        """Return the time by the server's clock, computed from the last measurement.

        It may be early, at most by the time that the measurement's answer took to arrive. A worker never asks the
        server just for the time, as the ends of its runs need a time even while the server is unavailable.
        """
        age_s = CLOCK_AGE_S if self._measured_s is None else boot_s() - self._measured_s
        if age_s >= CLOCK_AGE_S and self._patience_s is None:
            sent_s = boot_s()
            self._clock_is(self._rows("SELECT extract(epoch FROM clock_timestamp())::float8")[0][0], sent_s)
        return boot_s() + self._offset_s

    def _clock_is(self, server_at: float, sent_s: float) -> None:
        """Note the server's clock from an answer that has just arrived, to a question sent at *sent_s*.

        The time in the answer is old by its way back, so the true offset is larger than the measured one, and of
        several measurements the largest is the most exact.
        """
        received_s = boot_s()
        offset_s = server_at - received_s
        if self._measured_s is not None and offset_s > self._most_offset_s + STEP_S:
            self.clock_set_mono = time.monotonic()
        old = self._measured_s is None or received_s - self._measured_s > CLOCK_DRIFT_S
        set_back = server_at - sent_s < self._offset_s  # even the upper bound of the offset is below the noted one
        if old or set_back or offset_s > self._offset_s:
            self._offset_s, self._most_offset_s = offset_s, server_at - sent_s
            self._measured_s = received_s

    def changed(self) -> bool:
        """See ``Store.changed``."""
        before, self._snapshot = self._snapshot, self._rows("SELECT txid_current_snapshot()::text")[0][0]
        return bool(self._snapshot != before)
