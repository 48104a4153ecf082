"""An open transaction on a connection: its statements go out together, as soon as somebody asks for an answer.

Over a link on which an answer takes 80 ms it is the answers that cost, not the statements.
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

    Nothing is waited for, and no error raised, before an answer is read or ``flush`` is called.
    """

    __slots__ = ("_line", "_link", "_pipeline", "answered")

    def __init__(self, link: PostgresLink, line: Line) -> None:
        self._link = link
        self._line = line
        self._pipeline: Optional[ContextManager[Any]] = None
        #: Whether the server has answered since the transaction began.
        self.answered = False

    def __call__(self, sql: str, parameters: Parameters = None) -> Any:
        # A pooler may keep a server busy for what psycopg sends behind the end of a pipeline.
        if self._pipeline is None and not self._link.pooled and psycopg.Pipeline.is_supported():
            pipeline = self._line.pipeline()
            pipeline.__enter__()
            self._pipeline = pipeline
        return Answer(self, self._line.execute(self._link.text(sql), parameters))

    def flush(self) -> None:
        """Wait until all statements so far are done.

        Raises:
            psycopg.Error: One failed; those behind it were not done.
        """
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.__exit__(None, None, None)
        self.answered = True

    def abandon(self) -> None:
        """Come to an end with the statements so far, whatever becomes of them."""
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
        """Send *blocks* into a COPY."""
        self.flush()
        with self._line.cursor() as cursor, cursor.copy(self._link.text(sql)) as copy:
            for block in blocks:
                copy.write(block)


class Answer:
    """What a statement returned: read like a cursor, and waited for only then."""

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
