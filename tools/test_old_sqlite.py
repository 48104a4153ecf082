"""Run the suite against old releases of SQLite: ``python3 tools/test_old_sqlite.py [PYTEST ARGUMENT ...]``.

SQLite 3.29 has neither RETURNING nor UPDATE FROM, 3.33 has no RETURNING: every fallback runs. ``--sqlite 3.35`` chooses
one: this is about what Python 3.8 and 3.9 for Windows have, with a planner of its own. The sources are those that old
releases of the npm package better-sqlite3 carry; they are compiled with gcc and kept in the user's cache. With
``--if-possible`` it exits 0 where there is no npm or gcc, and says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from environment import ROOT

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "queuectl" / "sqlite"
# The release of better-sqlite3 that carries each.
CARRIERS = {"3.29": ("5.4.3", "3.29.0"), "3.33": ("7.1.1", "3.33.0"), "3.35": ("7.4.0", "3.35.2")}
USUAL = ["3.29", "3.33"]
# What most distributions and Python's own builds switch on.
OPTIONS = ["-DSQLITE_ENABLE_COLUMN_METADATA", "-DSQLITE_ENABLE_DESERIALIZE", "-DSQLITE_THREADSAFE=1"]
DEFAULT_ARGUMENTS = [
    "-q",
    "tests/unit",
    "tests/store",
    "tests/process",
    "tests/cli",
    "--ignore=tests/store/postgres_only",
]


class CannotTest(Exception):
    """Something is not on this machine; the message names it."""


def main() -> int:
    """Run pytest once for each release; return the worst exit code."""
    parser = argparse.ArgumentParser(description="Run the suite against old releases of SQLite.")
    parser.add_argument("--sqlite", action="append", choices=list(CARRIERS))
    parser.add_argument("--if-possible", action="store_true", help="exit 0 where it cannot be done")
    options, arguments = parser.parse_known_args()
    try:
        libraries = [library(version) for version in options.sqlite or USUAL]
    except CannotTest as trouble:
        print(f"Not tested with old SQLite: {trouble}")
        return 0 if options.if_possible else 1
    with tempfile.TemporaryDirectory(prefix="queuectl-sqlite-") as folder:
        os.chmod(folder, 0o755)  # some tests run commands as a user who may not read the cache
        copies = [Path(shutil.copy(str(path), folder)) for path in libraries]
        return max([run_suite(path, arguments or DEFAULT_ARGUMENTS) for path in copies])


def library(version: str) -> Path:
    """Return the shared library of one release, made first if need be.

    Raises:
        CannotTest: It cannot be made here.
    """
    carrier, release = CARRIERS[version]
    made = CACHE / f"libsqlite3-{release}.so"
    if made.exists():
        return made
    for program in ("npm", "gcc"):
        if shutil.which(program) is None:
            raise CannotTest(f"it needs {program}.")
    if sys.platform != "linux":
        raise CannotTest("the library is put in by LD_PRELOAD, which is Linux's.")
    print(f"Compiling SQLite {release} ...", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="queuectl-sqlite-") as folder:
        demand(["npm", "pack", "--silent", f"better-sqlite3@{carrier}"], folder)
        with tarfile.open(next(map(str, Path(folder).glob("*.tgz")))) as package:
            inner = package.extractfile("package/deps/sqlite3.tar.gz")
            assert inner is not None
            with tarfile.open(fileobj=inner) as sources:
                for member in sources.getmembers():
                    data = sources.extractfile(member) if member.name.rpartition("/")[2].startswith("sqlite3") else None
                    if data is not None:
                        Path(folder, member.name.rpartition("/")[2]).write_bytes(data.read())
        soname = ["-Wl,-soname,libsqlite3.so.0", "-o", f"{made}.new", "sqlite3.c", "-lpthread", "-ldl", "-lm"]
        demand(["gcc", "-O1", "-shared", "-fPIC", *OPTIONS, *soname], folder)
    os.replace(f"{made}.new", str(made))
    return made


def demand(command: list[str], folder: str) -> None:
    """Run one step of making the library."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise CannotTest(f"'{' '.join(command[:3])}' failed: {done.stdout.strip()[-500:]}")


def run_suite(path: Path, arguments: list[str]) -> int:
    """Run the suite with the library in the place of the system's; make sure first that it is."""
    release = path.name[len("libsqlite3-") : -len(".so")]
    env = {**os.environ, "LD_PRELOAD": str(path)}
    ask = [sys.executable, "-c", "import sqlite3; print(sqlite3.sqlite_version)"]
    found = subprocess.run(ask, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if found != release:
        print(f"This Python does not take SQLite {release} in: it says {found}.")
        return 1
    print(f"The suite with SQLite {release}", flush=True)
    return subprocess.run([sys.executable, "tools/test.py", *arguments], cwd=str(ROOT), env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
