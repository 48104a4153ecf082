"""The schema of a PostgreSQL store: made once, brought up to date, refused if it is not ours or newer."""

from __future__ import annotations

import os
import re

import psycopg

from queuectl import faults
from queuectl.db.migrate import UNFINISHED, checksum, migrations
from queuectl.db.postgres_line import first_line
from queuectl.db.postgres_link import PostgresLink
from queuectl.db.postgres_run import BEGIN
from queuectl.errors import StoreRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Tuple

    from queuectl.db.postgres_line import Line

# The newest schema this version writes; tests hold it against the files.
NEWEST = 10


class PostgresSchema(PostgresLink):
    """A connection to a store whose tables are there and are ours."""

    store_id = ""
    #: Whether to make a store that is missing, and whether to open one that a copy was begun into.
    _create, _unfinished = True, False

    #: The number of the newest migration, as ``_version`` finds it; the store's id; whether the text of its functions
    #: names its schema.
    _first_look = """
        SELECT (SELECT max(n) FROM queuectl.schema_version WHERE checksum IS NOT NULL),
               (SELECT store_id FROM queuectl.store WHERE one),
               (SELECT strpos(prosrc, ' queuectl.queues ') > 0 FROM pg_catalog.pg_proc
                 WHERE oid = pg_catalog.to_regprocedure('queuectl.enqueue(text, jsonb)'))
        """

    def _arrived(self, line: Line, seen: Optional[Tuple[Any, ...]]) -> None:
        """Make or upgrade the tables if need be, and make sure that this is the store it was."""
        if seen is None or seen[0] != NEWEST:
            seen = self._look_closer(line)
        store_id = seen[1]
        if store_id is None:
            raise StoreRefused(f"{self.location} is not a complete queuectl store; it was left untouched.")
        if self.store_id not in ("", store_id):
            raise StoreRefused(f"the store {self.location} was replaced by another one. Run the command again.")
        if seen[2] is False:
            self._follow_rename(line)
        self.store_id = store_id

    def _look_closer(self, line: Line) -> Tuple[Any, ...]:
        """Make or upgrade the tables if need be; return what ``_first_look`` would."""
        try:
            version = self._version(line)
            if version is None:
                if self.store_id:  # a new one would be in the way of whoever restores it
                    raise StoreRefused(
                        f"the store {self.location} has vanished. Put it back, or start again with a new one."
                    )
                self._refuse_keyword(line)
                if not self._create:
                    raise StoreRefused(f"there is no store at {self.location}. 'queuectl enqueue' creates one.")
            if version is None or version < NEWEST:
                self._upgrade_as_owner(line, version)
            seen: Tuple[Any, ...] = line.execute(self.text(self._first_look)).fetchall()[0]
            return seen
        except psycopg.Error as error:
            self._fail(error)

    def _upgrade_as_owner(self, line: Line, version: Optional[int]) -> None:
        """Make or upgrade the tables; tell a role that may not upgrade them who has to."""
        try:
            self._upgrade(line)
        except psycopg.errors.InsufficientPrivilege as error:
            if version is None:
                raise
            raise StoreRefused(
                f"{self.location} was written by an older queuectl (schema {version}; this one needs {NEWEST}), and "
                f"this role may not upgrade it ({first_line(error)}). Call one command, such as 'queuectl status', "
                "as the role that owns its tables."
            ) from error

    def _version(self, line: Line) -> Optional[int]:
        """Return the number of the newest migration that was applied; None if there is nothing of ours yet."""
        row = line.execute(_WHAT_IS_THERE, {"schema": self.schema}).fetchone()
        ours, others = row or (False, 0)
        if not ours:
            if others:
                raise StoreRefused(
                    f"the schema {self.schema} of {self.location} holds another program's tables; "
                    "it was left untouched. Choose another one: ?schema=NAME at the end of the URL."
                )
            return None
        version = line.execute(self.text("SELECT max(n) FROM queuectl.schema_version")).fetchone()
        number = int(version[0]) if version and version[0] is not None else 0
        if number == UNFINISHED:
            from queuectl.db.transfer import refuse_release, refuse_unfinished

            if not self._unfinished:
                raise refuse_unfinished(self.location)
            made = self.text("SELECT max(n) FROM queuectl.schema_version WHERE n < %s")
            if line.execute(made, (UNFINISHED,)).fetchone() != (NEWEST,):
                raise refuse_release(self.location)
            return NEWEST
        if number > NEWEST:
            raise StoreRefused(
                f"{self.location} was written by a newer queuectl (schema {number}; this one knows {NEWEST}). "
                "Install the newer release."
            )
        return number

    def _refuse_keyword(self, line: Line) -> None:
        """Refuse a schema whose name means something in this server's SQL, such as ``order``: names are not quoted."""
        if line.execute(_IS_KEYWORD, (self.schema,)).fetchone():
            raise StoreRefused(
                f"the schema of a store must not be named {self.schema}: that is an SQL keyword. "
                "Choose another one: ?schema=NAME at the end of the URL."
            )

    def _upgrade(self, line: Line) -> None:
        """Apply the migrations that are missing, in one transaction, alone."""
        line.execute(_BEGIN)
        try:
            self._lock_schema(line)
            have = self._version(line)  # another process may have been first
            if not line.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.schema,)).fetchone():
                line.execute(f"CREATE SCHEMA {self.schema}")
            if have is not None:
                self._become_owner(line)
            for migration in migrations("postgres"):
                if migration.number > (have or 0):
                    line.execute(self.text(migration.sql))
                    line.execute(
                        self.text(
                            """
                            INSERT INTO queuectl.schema_version (n, checksum, applied_at)
                            VALUES (%s, %s, extract(epoch FROM now()))
                            """
                        ),
                        (migration.number, checksum(migration.sql)),
                    )
                    faults.point("migrating")
            if have is None:
                self._fill(line)
            line.execute("COMMIT")
        except BaseException:
            self._roll_back(line)
            raise

    def _become_owner(self, line: Line) -> None:
        """Go on as the role that owns the tables, until the end of the transaction, if this is another that may.

        What a superuser or a member of that role makes in its own name, the owner could not change: not at the next
        upgrade, nor when the schema is renamed. What it made so in an earlier upgrade becomes the owner's, too.
        """
        row = line.execute(_OTHER_OWNER, {"schema": self.schema}).fetchone()
        if row is not None:
            owner, functions = row
            for function in functions:
                line.execute(f"ALTER FUNCTION {function} OWNER TO {owner}")
            line.execute(f"SET LOCAL ROLE {owner}")

    def _follow_rename(self, line: Line) -> None:
        """Make the functions of a renamed schema anew: tables and views follow a new name, the text of functions not.

        They would fail, or work on the store that now has the old name. Who may call them stays as it is.
        """
        try:
            line.execute(_BEGIN)
            try:
                self._lock_schema(line)
                for migration in migrations("postgres"):
                    for statement in re.findall(_FUNCTION, migration.sql):
                        line.execute(self.text(statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)))
                line.execute("COMMIT")
            except BaseException:
                self._roll_back(line)
                raise
        except psycopg.errors.InsufficientPrivilege as error:
            raise StoreRefused(
                f"the schema of {self.location} was renamed, and this role may not adapt its functions. "
                "Call one command, such as 'queuectl status', as the role that owns its tables."
            ) from error
        except psycopg.Error as error:
            self._fail(error)

    def _lock_schema(self, line: Line) -> None:
        """Keep others from changing the schema until the end of the transaction."""
        line.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"queuectl migration {self.schema}",))

    def _fill(self, line: Line) -> None:
        """Put in the rows that a new store begins with."""
        line.execute(
            self.text("INSERT INTO queuectl.store (store_id, created_at) VALUES (%s, extract(epoch FROM now()))"),
            (os.urandom(8).hex(),),
        )
        line.execute(self.text("INSERT INTO queuectl.numbers DEFAULT VALUES"))
        line.execute(self.text("INSERT INTO queuectl.queues (name) VALUES ('default')"))


# Behind a pooler, the path is the role's: what it has beside the server's own must not get into what is kept.
_BEGIN = f"{BEGIN}; SET LOCAL search_path = pg_catalog"

# What makes or changes a function in a migration.
_FUNCTION = r"(?ms)^(?:CREATE (?:OR REPLACE )?FUNCTION .*?^END \$\$;|ALTER FUNCTION [^;]*;)"

_IS_KEYWORD = "SELECT 1 FROM pg_get_keywords() WHERE word = %s AND catcode <> 'U'"

# The owner of the tables, if that is another role than this one, and may make functions; and what is this one's.
_OTHER_OWNER = """
    SELECT quote_ident(pg_get_userbyid(c.relowner)),
           ARRAY(SELECT p.oid::regprocedure::text
                   FROM pg_proc AS p
                  WHERE p.pronamespace = n.oid AND pg_get_userbyid(p.proowner) = current_user)
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = %(schema)s AND c.relname = 'schema_version'
       AND pg_get_userbyid(c.relowner) <> current_user AND has_schema_privilege(c.relowner, n.oid, 'CREATE')
    """

# Whether there is a table schema_version as ours is, and how many other tables and views.
_WHAT_IS_THERE = """
    SELECT coalesce(bool_or(c.relname = 'schema_version' AND EXISTS (
               SELECT 1 FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'checksum')), false),
           count(*) FILTER (WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f'))
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = %(schema)s
    """
