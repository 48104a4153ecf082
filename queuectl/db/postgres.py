"""Opening a PostgreSQL store by its URL; the engine itself is imported only then, and needs psycopg 3.

``postgresql://user@host:5432/database?schema=queuectl``: anything that libpq understands in a URL, and ``schema``, the
schema that holds the store. The password may stand in the URL, in ``PGPASSWORD`` or in ``~/.pgpass``;
no message ever shows it.
"""

from __future__ import annotations

import os
from typing import Dict, NamedTuple, Tuple

from queuectl.errors import MissingExtra, StoreRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from queuectl.db.base import Store


DEFAULT_SCHEMA = "queuectl"
# With room for what is put before and after it in names that PostgreSQL cuts at 63 bytes.
MOST_SCHEMA_LETTERS = 40
# A peer that is gone is noticed within about 15 s even when no packet comes back.
PARAMETERS = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "fallback_application_name": "queuectl",
}
RESERVED = ":/?#[]@%&"  # what has to be written as %XX in a URL
UNREADABLE = (
    "the store's URL cannot be read. It looks like postgresql://user@host:5432/database, with any of "
    f"{RESERVED} in a password written as %XX."
)
# What libpq is told by the name of a file, which it looks for at each connection: a worker is in its jobs' directories.
FILES = ("passfile", "servicefile", "sslcert", "sslcrl", "sslcrldir", "sslkey", "sslkeylogfile", "sslrootcert")


class Address(NamedTuple):
    """Where a store is: what libpq is told, the schema, and a form for messages."""

    parameters: Dict[str, str]
    schema: str
    location: str


def open_postgres(url: str, create: bool = True, unfinished: bool = False) -> Store:
    """Open the store that *url* names, making or upgrading its tables if need be; see ``open_store``.

    Raises:
        MissingExtra: psycopg is not installed.
        StoreError: The URL is wrong, the server cannot be reached, or the schema is not ours.
    """
    try:
        from queuectl.db.postgres_store import PostgresStore
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise MissingExtra("the PostgreSQL store", "psycopg", "postgres") from None
    except ImportError:  # psycopg is there, but neither its binary part nor a libpq
        raise StoreRefused(
            "the PostgreSQL store needs libpq, which psycopg cannot find: pip install 'psycopg[binary]'"
        ) from None
    return PostgresStore(parse_url(url), create, unfinished)


def parse_url(url: str) -> Address:
    """Return the address that *url* means.

    Raises:
        StoreRefused: It cannot be read. The message does not repeat it: it may hold a password.
    """
    from psycopg import ProgrammingError, conninfo

    plain, schema = _without_schema(url)
    try:
        given = {key: str(value) for key, value in conninfo.conninfo_to_dict(plain).items()}
        if _misread(given):
            raise ProgrammingError
    except ProgrammingError as error:
        unknown = _unknown_parameter(plain, str(error))
        if unknown:
            raise StoreRefused(f"the store's URL has the parameter {unknown}, which libpq does not know.") from None
        raise StoreRefused(UNREADABLE) from None
    given["client_encoding"] = "UTF8"
    for name in FILES:
        if name in given and not _is_no_file(given[name]):
            given[name] = os.path.abspath(given[name])
    return Address({**PARAMETERS, **given}, schema, _for_messages(given, schema))


def _is_no_file(name: str) -> bool:
    """Say whether libpq takes *name* for another thing: the system's roots, or a key in an engine of OpenSSL."""
    return name in ("", "system") or ":" in name


def _unknown_parameter(url: str, error: str) -> str:
    """Return the parameter of *url* of which libpq's *error* speaks; nothing where that may be a part of a password."""
    query = url.partition("?")[2]
    may_be_password = "@" in query or "password=" in query  # cut at one of the URL's own signs in it
    for pair in query.split("&") if not may_be_password else ():
        name = pair.partition("=")[0]
        if name and f'query parameter: "{name}"' in error:
            return name
    return ""


def _misread(given: Dict[str, str]) -> bool:
    """Say whether a part of a password, with one of the URL's own signs in it, was taken for something else."""
    ports = given.get("port", "").replace(",", "")
    return bool(
        "@" in given.get("host", "")
        or "@" in given.get("dbname", "")
        or (ports and not (ports.isascii() and ports.isdigit()))
    )


def _without_schema(url: str) -> Tuple[str, str]:
    """Take ``schema=NAME``, which libpq does not know, out of the URL; return the rest and the name."""
    base, mark, query = url.partition("?")
    kept = []
    schema = DEFAULT_SCHEMA
    for pair in query.split("&") if mark else ():
        name, _, value = pair.partition("=")
        if name == "schema":
            schema = value
        else:
            kept.append(pair)
    if "@" in schema:
        raise StoreRefused(UNREADABLE)  # this is a part of a password that has a question mark in it
    plain = schema.replace("_", "a")
    if not (0 < len(schema) <= MOST_SCHEMA_LETTERS and plain.isascii() and plain.isalnum() and plain == plain.lower()):
        raise StoreRefused(
            f"the schema of a store must be a name of 1-{MOST_SCHEMA_LETTERS} of a-z 0-9 _, not {schema[:60]!a}."
        )
    if schema[0].isdigit() or schema.startswith("pg_"):
        raise StoreRefused(f"the schema of a store must not begin with a digit or pg_, as {schema} does.")
    return base + ("?" + "&".join(kept) if kept else ""), schema


def _for_messages(given: Dict[str, str], schema: str) -> str:
    """Return a URL of the store without password and parameters, which names the same store if it is typed."""
    hosts = [_in_url(host) for host in (given.get("host") or given.get("hostaddr", "")).split(",")]
    ports = given.get("port", "").split(",")
    if len(ports) != len(hosts):
        ports = ports[:1] * len(hosts)
    place = ",".join(host + (":" + port if port else "") for host, port in zip(hosts, ports))
    if given.get("user"):
        place = _in_url(given["user"]) + "@" + place
    location = f"postgresql://{place}/{_in_url(given.get('dbname', ''))}"
    return location if schema == DEFAULT_SCHEMA else f"{location}?schema={schema}"


def _in_url(name: str) -> str:
    """Return *name* as it has to be written in a URL; an IPv6 address in brackets."""
    if ":" in name and "/" not in name and "%" not in name and not name.strip("0123456789abcdefABCDEF:."):
        return f"[{name}]"
    return "".join(f"%{ord(sign):02X}" if sign in RESERVED or sign <= " " else sign for sign in name)
