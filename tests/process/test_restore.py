"""Backups, made and restored by the very commands that the documentation shows; a bad one loses nothing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Callable, Dict, Iterator, List

import pytest

from queuectl import Queue
from tests.conftest import PACKAGE_PARENT, QUEUECTL, Result
from tests.postgres_server import PostgresServer, find_programs, shared_server

HOW_TO = Path(PACKAGE_PARENT) / "docs" / "how-to"

pytestmark = [
    pytest.mark.posix("the pages show commands for sh"),
    pytest.mark.skipif(not HOW_TO.is_dir(), reason="no checkout: an installed package has no docs"),
]

Cli = Callable[..., Result]


def block(page: str, first: str) -> str:
    """Return the code block of a page that begins with a line."""
    (found,) = re.findall(rf"^```bash\n({re.escape(first)}.*?)^```", (HOW_TO / page).read_text("utf-8"), re.S | re.M)
    return str(found)


@pytest.fixture
def bash(tmp_path: Path) -> Callable[..., str]:
    """Run lines as if they were pasted into a terminal: one that fails does not keep the next from being run."""
    program = tmp_path / "bin" / "queuectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(map(shlex.quote, QUEUECTL))} "$@"\n')
    program.chmod(0o755)

    def run(text: str, **env: str) -> str:
        path = os.pathsep.join([str(program.parent), env.pop("PATH", ""), os.environ["PATH"]])
        done = subprocess.run(
            ["sh", "-c", text], env={**os.environ, **env, "PATH": path}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout.decode("utf-8", "replace")

    return run


def ids(location: str) -> List[str]:
    with Queue(location) as queue:
        return [job.id for job in queue.jobs()]


# -- a file -----------------------------------------------------------------------------------


@pytest.fixture
def jobs_db(home: Path, cli: Cli) -> str:
    """The path of a store with two jobs, which commands left in its log."""
    for _ in range(2):
        cli("enqueue", "--", "true", code=0)
    return str(home / "jobs.db")


def restore_file(folder: Path) -> str:
    """The commands that restore a backup in *folder*; workers would run its jobs."""
    text = block("back-up-and-move.md", "queuectl worker stop\ninstall ").replace("/backup/", f"{folder}/")
    return text.partition("queuectl worker start")[0]


def test_a_file_is_restored(bash: Callable[..., str], jobs_db: str, tmp_path: Path) -> None:
    """The jobs of the backup are back, and what came after it is gone."""
    backup = block("back-up-and-move.md", "python3 - <<'END'\n").replace("/backup/", f"{tmp_path}/")
    assert "" == bash(backup)
    with Queue() as queue:
        queue.enqueue("true")

    said = bash(restore_file(tmp_path))

    assert "undamaged" in said
    assert ["job1", "job2"] == ids(jobs_db)


def test_a_backup_that_is_not_there_costs_no_job(bash: Callable[..., str], jobs_db: str, tmp_path: Path) -> None:
    """The store keeps its log, in which its jobs still are."""
    said = bash(restore_file(tmp_path / "nowhere"))

    assert "nowhere/jobs.db" in said
    assert ["job1", "job2"] == ids(jobs_db)


# -- a database -------------------------------------------------------------------------------


@pytest.fixture
def server() -> PostgresServer:
    programs = find_programs()
    if programs and not all(os.path.exists(f"{programs}/{name}") for name in ("pg_dump", "psql")):
        pytest.skip("pg_dump or psql is not beside the server")
    return shared_server()


@pytest.fixture
def env(server: PostgresServer) -> Iterator[Dict[str, str]]:
    """The environment of somebody whose database ``jobs`` has a store with two jobs."""
    server.execute("CREATE DATABASE jobs")
    url = f"postgresql://postgres@127.0.0.1:{server.port}/jobs"
    with Queue(url) as queue:
        queue.enqueue_many(["true", "true"])
    yield {
        "PATH": str(find_programs()), "PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres",
        "QUEUECTL_DB": url,
    }  # fmt: skip
    server.execute("DROP DATABASE jobs")


DUMP = "pg_dump --schema queuectl"
RESTORE = "queuectl worker stop --all-hosts\ngrep "


def test_a_database_is_restored(bash: Callable[..., str], env: Dict[str, str]) -> None:
    """The jobs of the dump are back, and what came after it is gone."""
    assert "" == bash(block("postgres.md", DUMP), **env)
    with Queue(env["QUEUECTL_DB"]) as queue:
        queue.enqueue("true")

    said = bash(block("postgres.md", RESTORE), **env)

    assert "undamaged" in said
    assert ["job1", "job2"] == ids(env["QUEUECTL_DB"])


@pytest.mark.parametrize("case", ["missing", "empty", "cut off", "refused"])
def test_a_bad_dump_costs_no_job(bash: Callable[..., str], env: Dict[str, str], case: str) -> None:
    """The schema is removed only together with the dump's being loaded."""
    assert "" == bash(block("postgres.md", DUMP), **env)
    dump = Path("queue.sql")
    text = dump.read_text("utf-8")
    if case == "missing":
        dump.unlink()
    else:
        bad = {"empty": "", "cut off": text[: len(text) // 2], "refused": text.replace("OWNER TO post", "OWNER TO h")}
        dump.write_text(bad[case], "utf-8")

    bash(block("postgres.md", RESTORE), **env)

    assert ["job1", "job2"] == ids(env["QUEUECTL_DB"])
