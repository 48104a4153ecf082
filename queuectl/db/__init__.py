"""Stores: ``open_store`` returns the one that a path or URL names."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Union

    from queuectl.db.base import Store

    Location = Union[str, bytes, os.PathLike[str]]  # a path or a URL


# What lists of libpq's parameters begin with.
_CONNINFO = ("dbname", "host", "hostaddr", "passfile", "password", "port", "service", "sslmode", "user")

#: Set by the console script: closing a store may leave to the end of the process what is only tidying.
process_ends_soon = False


def open_store(location: Optional[Location] = None, create: bool = True, unfinished: bool = False) -> Store:
    """Open the store at *location*: a path, ``sqlite:///path`` or ``postgresql://...``.

    None means ``QUEUECTL_DB``, else ``jobs.db`` in the home. A missing SQLite store is made
    unless *create* is False. With *unfinished* a store that a copy was begun into is opened too.

    Raises:
        StoreError: It cannot be opened; the message says why and what to do.
        MissingExtra: The engine's driver is not installed.
    """
    if location is not None:
        try:
            location = os.fsdecode(location)
        except TypeError:
            from queuectl.errors import StoreRefused

            raise StoreRefused(f"a store's location is a path or a URL, not {location!r}.") from None
    location = location or os.environ.get("QUEUECTL_DB") or default_path()
    scheme, colon, rest = location.partition("://")
    if colon and scheme in ("postgresql", "postgres"):
        from queuectl.db.postgres import open_postgres

        store: Store = open_postgres(location, unfinished)
        return store
    if not colon:
        _refuse_conninfo(location)
    from queuectl.db.sqlite import SqliteStore

    if colon and scheme == "sqlite":
        # sqlite:///C:/jobs.db: the slash before a drive is the URL's.
        location = rest[1:] if rest.startswith("//") or (os.name == "nt" and rest[2:3] == ":") else rest
    elif colon and scheme.isalpha():
        from queuectl.errors import StoreRefused

        raise StoreRefused(f"unknown kind of store {scheme}://. Give a path or postgresql://...")
    return SqliteStore(os.path.abspath(os.path.expanduser(location)), create, unfinished)


def _refuse_conninfo(location: str) -> None:
    """Refuse what libpq also takes, ``host=db.example dbname=jobs``: as a path it would be a file of that name."""
    name, equals, _ = location.partition("=")
    if equals and name.strip() in _CONNINFO:
        from queuectl.errors import StoreRefused

        # It may hold a password: it is not repeated.
        raise StoreRefused(
            "a PostgreSQL store is named by a URL such as postgresql://user@host:5432/database, not by a list such as "
            "'host=... dbname=...'. For a file of that name, put ./ in front."
        )


def home() -> str:
    """Return the directory of queuectl's files: ``QUEUECTL_HOME``, else ``~/.queuectl``."""
    given = os.environ.get("QUEUECTL_HOME")
    if given:
        return os.path.abspath(os.path.expanduser(given))
    found = os.path.join(os.path.expanduser("~"), ".queuectl")
    # An empty or relative HOME, as some services have, would be the root or wherever one happens to be.
    if not os.path.isabs(found) or (os.name != "nt" and not os.path.isabs(os.environ.get("HOME", "/"))):
        from queuectl.errors import StoreRefused

        raise StoreRefused("this user has no home directory. Set QUEUECTL_HOME to a directory of yours.")
    return found


def default_path() -> str:
    """Return where the store is when nobody says otherwise."""
    return os.path.join(home(), "jobs.db")
