"""What a session of ours is set to, whatever the role, the database or the server says; behind a pooler it cannot be.

Startup options would do the same, but not every pooler takes them. ``default_transaction_read_only`` is left alone: it
is there to be obeyed.
"""

from __future__ import annotations

from queuectl.errors import StoreRefused
from queuectl.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Tuple

    from queuectl.db.postgres_line import Line

# How long a statement waits for what others have locked.
PATIENCE_S = 30.0

# Settings without which what is read or stored would be another, and their good values; a session is set to the first.
NEEDED = (
    ("default_transaction_isolation", ("read committed",)),
    # The driver doubles the backslashes of what it passes through as bytes where this is off.
    ("standard_conforming_strings", ("on",)),
    # Below, times come rounded.
    ("extra_float_digits", ("1", "2", "3")),
    # What was acknowledged is on the disk.
    ("synchronous_commit", ("on", "local", "remote_write", "remote_apply")),
    # Lists that are passed as one text have NULLs in them.
    ("array_nulls", ("on",)),
)


class Greeting(NamedTuple):
    """What a server says of itself and of a new session, before that is set up."""

    version: int
    encoding: str
    pid: int
    clock_at: float
    found: List[str]  # what ``NEEDED`` was set to
    in_the_way: Optional[str]  # behind a pooler, a schema whose functions could take the place of the server's


def greet(line: Line, more: str = "") -> Tuple[Greeting, Any]:
    """Set the session up and return what the server is, in one exchange; and the first row of *more*, if it is given.

    A pooler hands out keys of its own, so that the process that answers is another: then nothing is set.
    """
    pid = line.info.backend_pid
    cursor = line.execute(_PATH.replace("{pid}", str(pid)) + _greet(pid) + more)
    in_the_way, _ = cursor.fetchone()
    cursor.nextset()
    version, encoding, pid, clock_us, found, _ = cursor.fetchone()
    row = cursor.fetchone() if more and cursor.nextset() else None
    return Greeting(version, encoding, pid, clock_us / 1e6, found, in_the_way), row


def listen(line: Line, channel: str, pooled: bool) -> None:
    """Begin a session that only listens: it may have nothing to do for days."""
    stay = "" if pooled or line.info.server_version < _NEWER[IDLE] else f"SET {IDLE} = 0; "
    line.execute(f'{stay}LISTEN "{channel}"')


def refuse_session(location: str, server: Greeting) -> None:
    """Refuse a session that has to be taken as it is, behind a pooler, if it would not do.

    Raises:
        StoreRefused: The message names the setting.
    """
    if server.in_the_way is not None:
        raise StoreRefused(
            f"{location} has the schema {server.in_the_way} on its search_path behind a pooler, where functions could "
            "take the place of the server's own. Set search_path to 'pg_catalog' for this role."
        )
    for (name, good), value in zip(NEEDED, server.found):
        if value not in good:
            raise StoreRefused(f"{location} has {name} = {value} behind a pooler. Set it to '{good[0]}' for this role.")


IDLE = "idle_session_timeout"

# Plans are kept for the life of a session, and tables grow meanwhile from nothing to millions of rows: a plan
# that reads a whole table is never the right one to keep. check() undoes this for itself.
#
# The timeouts are for a client that is paused with a transaction open: others say that the store is busy, and the
# server ends its session after a while. Others would end statements that take long, such as a large batch, or workers
# that have nothing to do.
_SETTINGS = {
    "enable_indexscan": "on",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "lock_timeout": f"{PATIENCE_S:.0f}s",
    "idle_in_transaction_session_timeout": f"{2 * PATIENCE_S:.0f}s",
    "statement_timeout": "0",
}
# Timeouts that end idle sessions and long transactions, and the first version that has them.
_NEWER = {IDLE: 140000, "transaction_timeout": 170000}


# Until the path is set, every name has to say where it belongs: on the path of a role there may be operators and
# functions that others have made, and a better match for the types at hand goes before one of the server's own
# (CVE-2018-1058). Behind a pooler the path is set for the rest of the greeting alone. There, no schema may come before
# the server's own, and none may be open to others.
_PATH = """
    SELECT CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) {pid} THEN (
               SELECT path.name
                 FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS path (name, place)
                 JOIN pg_catalog.pg_namespace AS n ON n.nspname OPERATOR(pg_catalog.=) path.name
                WHERE path.name OPERATOR(pg_catalog.<>) 'pg_catalog'
                  AND n.oid OPERATOR(pg_catalog.<>) pg_catalog.pg_my_temp_schema()
                  AND (path.place OPERATOR(pg_catalog.<)
                       pg_catalog.array_position(pg_catalog.current_schemas(true), 'pg_catalog')
                       OR EXISTS (SELECT 1 FROM pg_catalog.aclexplode(n.nspacl) AS granted
                                   WHERE granted.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
                                     AND granted.grantee OPERATOR(pg_catalog.<>) n.nspowner
                                     AND pg_catalog.pg_get_userbyid(granted.grantee)
                                         OPERATOR(pg_catalog.<>) current_user))
                ORDER BY path.place LIMIT 1) END,
           pg_catalog.set_config(
               'search_path', 'pg_catalog', pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) {pid});
    """


def _greet(pid: int) -> str:
    """Return the greeting for a session whose server process is said to be *pid*."""
    direct = f"pg_backend_pid() = {pid}"
    changes = [
        _case(f"{direct} AND current_setting('{name}') <> ALL (ARRAY{list(good)})", name, good[0])
        for name, good in NEEDED
    ]
    changes += [_case(direct, name, value) for name, value in _SETTINGS.items()]
    changes += [_case(f"{direct} AND {_VERSION} >= {since}", name, "0") for name, since in _NEWER.items()]
    # The clock as a whole number, which comes through whatever digits a float has.
    return f"""
        SELECT {_VERSION}, current_setting('server_encoding'), pg_backend_pid(),
               (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
               ARRAY[{", ".join(f"current_setting('{name}')" for name, _ in NEEDED)}],
               ARRAY[{", ".join(changes)}];
        """


def _case(condition: str, name: str, value: str) -> str:
    return f"CASE WHEN {condition} THEN set_config('{name}', '{value}', false) END"


_VERSION = "current_setting('server_version_num')::int"
