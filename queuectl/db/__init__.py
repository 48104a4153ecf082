"""Stores: ``open_store`` returns the one that a path or URL names."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Union

    from queuectl.db.base import Store
    from queuectl.errors import StoreRefused

    Location = Union[str, bytes, os.PathLike[str]]  # a path or a URL


# What lists of libpq's parameters begin with.
_CONNINFO = ("dbname", "host", "hostaddr", "passfile", "password", "port", "service", "sslmode", "user")

# What else the name of a URL's kind may have in it, such as postgresql+psycopg has.
_IN_SCHEMES = str.maketrans("+-.", "aaa")

#: Set by the console script: closing a store may leave to the end of the process what is only tidying.
process_ends_soon = False


def open_store(location: Optional[Location] = None, create: bool = True, unfinished: bool = False) -> Store:
    """Open the store at *location*: a path, ``sqlite:///path`` or ``postgresql://...``.

    None means ``QUEUECTL_DB``, else ``jobs.db`` in the home. A missing store is made unless *create* is False. With
    *unfinished* a store that a copy was begun into is opened too.

    Raises:
        StoreError: It cannot be opened; the message says why and what to do.
        MissingExtra: The engine's driver is not installed.
    """
    where = located(location)
    if "://" in where:
        from queuectl.db.postgres import open_postgres

        store: Store = open_postgres(where, create, unfinished)
        return store
    from queuectl.db.sqlite import SqliteStore

    return SqliteStore(where, create, unfinished)


def import_engine(location: Optional[Location] = None) -> None:
    """Import what opening the store at *location* needs, and open nothing.

    Raises:
        StoreRefused: It is neither a path nor a URL; see ``open_store``.
        ImportError: The engine's driver is not installed.
    """
    if "://" in located(location):
        import queuectl.db.postgres_store
    else:
        import queuectl.db.sqlite  # noqa: F401


def located(location: Optional[Location] = None) -> str:
    """Return what *location* means here and now: a URL of PostgreSQL, or an absolute path; see ``open_store``.

    Raises:
        StoreRefused: It is neither.
    """
    if location is not None:
        try:
            location = os.fsdecode(location)
        except TypeError:
            from queuectl.errors import shown

            raise _refused(f"a store's location must be a path or a URL, not {shown(location)}.") from None
        if "\0" in location:
            raise _refused(f"a store's location must not contain NUL characters, as {location!r} does.")
        try:
            os.fsencode(location)
        except UnicodeEncodeError:
            raise _refused(f"a store's location must be text that a path can have, not {location!r}.") from None
    location = location or os.environ.get("QUEUECTL_DB") or default_path()
    scheme, colon, rest = location.partition("://")
    if colon and scheme in ("postgresql", "postgres"):
        return location
    if not colon:
        _refuse_conninfo(location)
        if location.startswith(("postgresql:", "postgres:")):
            raise _refused("a PostgreSQL store is named by a URL that begins with postgresql://, with two slashes.")
    elif scheme == "sqlite":
        # sqlite:///C:/jobs.db: the slash before a drive is the URL's.
        location = rest[1:] if rest.startswith("//") or (os.name == "nt" and rest[2:3] == ":") else rest
    elif scheme[:1].isalpha() and scheme.translate(_IN_SCHEMES).isalnum():
        raise _refused(f"unknown kind of store {scheme}://. Give a path or postgresql://...")
    _refuse_sqlites_names(location)
    return os.path.abspath(os.path.expanduser(location))


def _refused(why: str) -> StoreRefused:
    from queuectl.errors import StoreRefused

    return StoreRefused(why)


def _refuse_conninfo(location: str) -> None:
    """Refuse what libpq also takes, ``host=db.example dbname=jobs``: as a path it would be a file of that name."""
    name, equals, _ = location.partition("=")
    if equals and name.strip() in _CONNINFO:
        # It may hold a password: it is not repeated.
        raise _refused(
            "a PostgreSQL store is named by a URL such as postgresql://user@host:5432/database, not by a list such as "
            "'host=... dbname=...'. For a file of that name, put ./ in front."
        )


def _refuse_sqlites_names(path: str) -> None:
    """Refuse what SQLite takes for something else than a path, and would be a file of an odd name here."""
    if path in ("", ":memory:", "/:memory:"):  # the last: sqlite:///:memory:
        raise _refused("a store is a file, as one in memory would be lost with this process. Give a path.")
    if path.startswith("file:"):
        raise _refused(f"a store is named by its path, not by a URI of SQLite's such as {path}.")


def home() -> str:
    """Return the directory of queuectl's files: ``QUEUECTL_HOME``, else ``~/.queuectl``."""
    given = os.environ.get("QUEUECTL_HOME")
    if given:
        return os.path.abspath(os.path.expanduser(given))
    found = os.path.join(os.path.expanduser("~"), ".queuectl")
    # An empty or relative HOME, as some services have, would be the root or wherever one happens to be.
    if not os.path.isabs(found) or (os.name != "nt" and not os.path.isabs(os.environ.get("HOME", "/"))):
        raise _refused("this user has no home directory. Set QUEUECTL_HOME to a directory of your own.")
    return found


def default_path() -> str:
    """Return where the store is when nobody says otherwise."""
    return os.path.join(home(), "jobs.db")
