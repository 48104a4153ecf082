"""Run the README's first command where there is nothing but Debian's python3: ``sudo python3 tools/clean_root.py``.

Makes a minimal Debian in a scratch folder with debootstrap or mmdebstrap (one of them must be installed), puts this
checkout into an ordinary user's home there, and runs ``python3 -m queuectl demo`` as that user in namespaces of
its own. ``--suite NAME`` chooses the release (default: stable), ``--keep FOLDER`` keeps the root for the next time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent
USER = 1000
INSIDE = """
set -e
mount --make-rprivate /
mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/dev"
for name in null zero urandom; do touch "$0/dev/$name"; mount --bind "/dev/$name" "$0/dev/$name"; done
exec chroot --userspec=1000:1000 "$0" /usr/bin/env -i HOME=/home/user PATH=/usr/bin:/bin sh -c '
    cd ~/queuectl
    . /etc/os-release
    echo "$PRETTY_NAME, $(python3 --version), uid $(id -u), $(dpkg -l | grep -c ^ii) packages"
    python3 -m queuectl demo && test -z "$(ls -A ~ | grep -v -x queuectl)"
'
"""


def main() -> int:
    """Make the root, run the demo in it, and return its exit code."""
    parser = argparse.ArgumentParser(description="Run the demo in a root with only Debian's python3.")
    parser.add_argument("--suite", default="stable")
    parser.add_argument("--keep", type=Path, help="make the root here, or use the one that is here")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("It takes root to make a root. Start it with sudo.")
    scratch = Path(tempfile.mkdtemp(prefix="queuectl-root-"))
    root = options.keep or scratch / "root"
    try:
        if not (root / "usr/bin/python3").exists():
            make_root(root, options.suite)
        put_checkout(root)
        # A copy of the mounts: what is mounted inside is gone with the process.
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INSIDE, str(root)]
        return subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode
    finally:
        shutil.rmtree(str(scratch), ignore_errors=True)


def make_root(root: Path, suite: str) -> None:
    """Install a minimal Debian with python3 into *root*."""
    makers = {
        "mmdebstrap": ["--variant=minbase", "--include=python3", suite, str(root)],
        "debootstrap": ["--variant=minbase", "--include=python3", suite, str(root)],
    }
    words: List[str] = next(([name, *rest] for name, rest in makers.items() if shutil.which(name)), [])
    if not words:
        sys.exit("It needs debootstrap or mmdebstrap: apt install debootstrap")
    root.mkdir(parents=True, exist_ok=True)
    print(f"Making a root with {words[0]} ...", flush=True)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout[-2000:]}\n{words[0]} failed.")


def put_checkout(root: Path) -> None:
    """Copy what a checkout has into the home of a user who owns nothing else."""
    home = root / "home" / "user"
    shutil.rmtree(str(home), ignore_errors=True)
    left_out = shutil.ignore_patterns("__pycache__", ".git", ".venv-test", "dist", ".*_cache", ".hypothesis")
    shutil.copytree(str(ROOT), str(home / "queuectl"), ignore=left_out)
    for path in [home, *home.rglob("*")]:
        os.chown(str(path), USER, USER)


if __name__ == "__main__":
    sys.exit(main())
