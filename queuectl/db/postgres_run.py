"""An open transaction that sends its statements in a pipeline and waits only when an answer is read.

Over a link on which a round trip takes 80 ms, round trips cost time, not statements.
"""

from __future__ import annotations

import psycopg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ContextManager, Iterable, Iterator, List, Optional

    from queuectl.db.postgres_line import Line
    from queuectl.db.postgres_link import Parameters, PostgresLink

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


class Run:
    """An open transaction: ``run(sql, parameters)`` runs one statement in it and returns its ``Answer``.

    Only reading an answer, or ``flush``, waits for the server, and only then are errors raised.
    """

    __slots__ = ("_line", "_link", "_pipeline", "answered")

    def __init__(self, link: PostgresLink, line: Line) -> None:
        self._link = link
        self._line = line
        self._pipeline: Optional[ContextManager[Any]] = None
        #: Whether the server has answered since the transaction began.
        self.answered = False

    def __call__(self, sql: str, parameters: Parameters = None) -> Any:
        # Not behind a pooler, which may keep its server connection busy for what psycopg sends at a pipeline's end.
        if self._pipeline is None and not self._link.pooled and psycopg.Pipeline.is_supported():
            pipeline = self._line.pipeline()
            pipeline.__enter__()
            self._pipeline = pipeline
        return Answer(self, self._line.execute(self._link.text(sql), parameters))

    def flush(self) -> None:
        """Wait until all statements so far are done.

        Raises:
            psycopg.Error: A statement failed; those after it were not done.
        """
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.__exit__(None, None, None)
        self.answered = True

    def abandon(self) -> None:
        """End the pipeline and ignore the errors of its statements."""
        try:
            self.flush()
        except psycopg.Error:
            pass

    def break_off(self) -> None:
        """Close the connection, whatever the driver was at; it hears of that here, and does not complain later."""
        self._line.close()
        try:
            self.flush()
        except Exception:  # an IndexError, for one, where a signal's handler had raised while it put results in order
            pass

    def copy(self, sql: str, blocks: Iterable[bytes]) -> None:
        """Run the COPY statement *sql* and send it *blocks*."""
        self.flush()
        with self._line.cursor() as cursor, cursor.copy(self._link.text(sql)) as copy:
            for block in blocks:
                copy.write(block)


class Answer:
    """The answer to a statement: read it like a cursor; reading waits for the server."""

    __slots__ = ("_cursor", "_run")

    def __init__(self, run: Run, cursor: Any) -> None:
        self._run = run
        self._cursor = cursor

    def fetchone(self) -> Any:
        """Return the next row; None if there is none."""
        self._run.flush()
        return self._cursor.fetchone()

    def fetchall(self) -> List[Any]:
        """Return all rows that are left."""
        self._run.flush()
        rows: List[Any] = self._cursor.fetchall()
        return rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())
