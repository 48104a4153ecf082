"""A virtual environment with what the tests and checks need, made on first use and kept up to date.

Only a Python (3.8 or newer) and a package index are needed. There is one environment per interpreter version
and set of extras, below ``.venv-test/``; a stamp in it says what it was made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-test"


def python_with(*extras: str) -> str:
    """Return the path of an interpreter that can import queuectl and what *extras* name."""
    place = FOLDER / "-".join(["{}.{}".format(*sys.version_info[:2]), *extras])
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = place / "made-from"
    made_from = _made_from(extras)
    FOLDER.mkdir(exist_ok=True)
    with _alone(FOLDER / f"{place.name}.lock"):
        if not (python.exists() and stamp.exists() and stamp.read_text() == made_from):
            _make(place, python, extras)
            stamp.write_text(made_from)
    return str(python)


def interpreters() -> List[str]:
    """Return the oldest and the newest Python from 3.8 on that pyenv keeps; without pyenv, this one."""
    found = {}
    root = os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
    for python in Path(root, "versions").glob("3.*/bin/python3"):
        numbers = tuple(int(word) for word in python.parent.parent.name.split(".") if word.isdigit())
        if numbers >= (3, 8):
            found[numbers] = str(python)
    if not found:
        return [sys.executable]
    return [found[numbers] for numbers in sorted({min(found), max(found)})]


def _made_from(extras: tuple[str, ...]) -> str:
    """Return what decides whether an environment is up to date: the interpreter and the project's file."""
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return "\n".join([os.path.realpath(sys.executable), sys.version, ",".join(extras), project])


def _make(place: Path, python: Path, extras: tuple[str, ...]) -> None:
    began = time.monotonic()
    print(f"Setting up {place.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    shutil.rmtree(str(place), ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(place)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        shutil.rmtree(str(place), ignore_errors=True)
        sys.exit(
            f"{made.stdout}{made.stderr}\nThis Python cannot make a virtual environment. On Debian and Ubuntu: "
            "apt install python3-venv. Or run 'python -m pytest' where pytest and hypothesis are installed."
        )
    install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    if subprocess.run([*install, "-e", f"{ROOT}[{','.join(extras)}]"], check=False).returncode != 0:
        shutil.rmtree(str(place), ignore_errors=True)
        sys.exit("The packages could not be installed; is there a package index to install them from?")
    print(f"Ready after {time.monotonic() - began:.0f} s.", file=sys.stderr, flush=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time in, so that two runs do not make the same environment."""
    with open(str(path), "w") as file:
        try:
            import fcntl
        except ImportError:  # Windows: two first runs at once are on their own
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
