"""Build the wheel, the source archive and ``queuectl.pyz`` into ``dist/``, and try them: ``python3 tools/dist.py``.

Everything is built twice, the second time from a copy of the tree with other dates and modes: the bytes must be the
same. Then ``twine check`` reads them, wheel and source archive are each installed into a clean environment, and the
demo runs with each, in an empty directory; with queuectl.pyz on the oldest and newest Python at hand. ``--build``
only builds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List

from environment import ROOT, interpreters, python_with
from pyz import build_pyz, package_files

# The date of every file in wheel and source archive, whatever this machine's environment says: hatchling's own default.
EPOCH = "1580601600"
COPIED = (
    "queuectl", "tests", "docs", "bench", "tools", "Makefile", "noxfile.py",
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE",
)  # fmt: skip


def main() -> int:
    """Build, compare, check and try; return 1 if anything is wrong."""
    dist = ROOT / "dist"
    shutil.rmtree(str(dist), ignore_errors=True)
    python = python_with("dist")
    build(python, ROOT, dist)
    for path in archives(dist):
        print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {digest(path)}")
    if "--build" in sys.argv[1:]:
        return 0
    wrong = missing_files(dist)
    with tempfile.TemporaryDirectory(prefix="queuectl-dist-") as folder:
        wrong += different_again(python, dist, Path(folder))
        wrong += refused_by_twine(python, dist)
        wrong += failed_trials(dist, Path(folder))
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def build(python: str, root: Path, into: Path) -> None:
    """Build all three from the tree *root*."""
    run([python, "-m", "build", "--outdir", str(into), str(root)], SOURCE_DATE_EPOCH=EPOCH)
    build_pyz(into / "queuectl.pyz", root)


def archives(folder: Path) -> List[Path]:
    """Return what was built there."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".whl", ".gz", ".pyz"))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(words: List[str], cwd: str = str(ROOT), **env: str) -> str:
    """Run a command and return what it printed; without success of it there is nothing more to do."""
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout)
    return done.stdout


def missing_files(dist: Path) -> List[str]:
    """Return a line for each file of the package that an archive lacks."""
    found = []
    for path in archives(dist):
        if path.suffix == ".gz":
            with tarfile.open(str(path)) as source:
                names = {name.partition("/")[2] for name in source.getnames()}
        else:
            with zipfile.ZipFile(str(path)) as archive:
                names = set(archive.namelist())
        found += [f"{path.name} lacks {name}" for name in package_files() if name not in names]
    return found


def different_again(python: str, dist: Path, folder: Path) -> List[str]:
    """Build again from a copy that is elsewhere, of now, and for its owner alone; name what differs."""
    copy = folder / "copy"
    copy.mkdir()
    for name in (*COPIED, "pyproject.toml", ".gitignore"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(str(source), str(copy / name), copy_function=shutil.copyfile)
        else:
            shutil.copyfile(str(source), str(copy / name))
    before = os.umask(0o077)
    try:
        build(python, copy, folder / "again")
    finally:
        os.umask(before)
    first, second = ({path.name: digest(path) for path in archives(where)} for where in (dist, folder / "again"))
    different = [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]
    if not different:
        print("built twice: the same bytes")
    return [f"{name} is not the same when it is built again" for name in different]


def refused_by_twine(python: str, dist: Path) -> List[str]:
    """Return what ``twine check`` has to say against wheel and source archive."""
    try:
        run(
            [
                python,
                "-m",
                "twine",
                "check",
                "--strict",
                *(str(path) for path in archives(dist) if path.suffix != ".pyz"),
            ]
        )
    except subprocess.CalledProcessError as error:
        return [f"twine check: {error.output}"]
    print("twine check: passed")
    return []


def failed_trials(dist: Path, folder: Path) -> List[str]:
    """Install and run everything, all at the same time: the demo sleeps for most of its ten seconds."""
    trials: Dict[str, Callable[[Path], List[str]]] = {}
    for path in archives(dist):
        if path.suffix == ".pyz":
            for python in interpreters():
                trials[f"{path.name} on {version_of(python)}"] = partial(as_it_is, python, path)
        else:
            trials[path.name] = partial(installed, path)
    wrong: List[str] = []

    def attempt(name: str, number: int) -> None:
        place = folder / f"trial{number}"
        empty = place / "empty"
        empty.mkdir(parents=True)
        clean = {"PYTHONPATH": "", "QUEUECTL_HOME": str(place / "home")}
        try:
            said = run([*trials[name](place), "demo"], cwd=str(empty), **clean)
            if "All figures are fine." not in said or list(empty.iterdir()):
                raise subprocess.CalledProcessError(0, "demo", said)
            print(f"{name}: the demo ran", flush=True)
        except subprocess.CalledProcessError as error:
            wrong.append(f"{name}: {error}\n{error.output}")

    threads = [threading.Thread(target=attempt, args=(name, number)) for number, name in enumerate(trials)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def version_of(python: str) -> str:
    """Return what ``python --version`` says."""
    return run([python, "--version"]).strip()


def as_it_is(python: str, archive: Path, _place: Path) -> List[str]:
    """Return the command for an archive that needs no installation."""
    return [python, str(archive)]


def installed(archive: Path, place: Path) -> List[str]:
    """Install *archive* into an environment that has nothing else; return the command."""
    run([sys.executable, "-m", "venv", str(place / "venv")])
    programs = place / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run([str(programs / "pip"), "install", "-q", "--disable-pip-version-check", str(archive)])
    return [str(programs / "queuectl")]


if __name__ == "__main__":
    sys.exit(main())
