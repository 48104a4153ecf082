"""Cut the power under a store and look what is left: ``sudo python3 tools/powercut.py [CUTS]`` (Linux, root).

A scratch ext4 file system on a loop device is shut down without its journal being written, as a loss of power
does it, while a process enqueues or ends jobs and says which are acknowledged. Then it is mounted again, and
each acknowledged job has to be as it was acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHUT_DOWN, WITHOUT_JOURNAL = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import time
from queuectl.db import open_store
from queuectl.job import Outcome, RunEnd, State, Verdict, Worker
from queuectl.jobspec import JobSpec

path, what = sys.argv[2:]
store = open_store(path)
if what == "enqueue":
    while True:
        print(store.add([JobSpec("true", "/")])[0], flush=True)
now = store.now()
store.register(Worker("w", "worker", "g", 0, "here", "machine:boot:", 1, "1", (), 1, now, now + 3600, time.monotonic()))
store.add([JobSpec("true", "/") for _ in range(100_000)])
ended = []
while True:
    claims = store.finish("w", ended, 1).claims
    store.sync()
    for claim, _, _ in ended:
        print(claim.job.id, flush=True)
    end = RunEnd(Outcome.COMPLETED, 0, None, None, store.now())
    ended = [(claim, end, Verdict(State.COMPLETED, None, None)) for claim in claims]
"""

READER = """
import sys
sys.path.insert(0, sys.argv[1])
from queuectl.db import open_store

path, what = sys.argv[2:]
store = open_store(path, create=False)
told = sys.stdin.read().split()
for problem in store.check():
    print(problem.what)
states = {}
for at in range(0, len(told), 500):
    states.update(store.states(told[at:at + 500]))
wanted = ("pending",) if what == "enqueue" else ("completed",)
print(sum(states.get(job_id) not in wanted for job_id in told))
"""


def one_cut(folder: str, what: str, runs_s: float, environment: dict[str, str]) -> tuple[int, int]:
    """Cut the power once; return how many jobs were acknowledged and how many of them are lost."""
    image, mount = os.path.join(folder, "image"), os.path.join(folder, "mount")
    os.makedirs(mount, exist_ok=True)
    with open(image, "wb") as file:
        file.truncate(512 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    arguments = [str(ROOT), os.path.join(mount, "q", "jobs.db"), what]
    try:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            text=True,
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(runs_s)
        handle = os.open(mount, os.O_RDONLY)
        fcntl.ioctl(handle, SHUT_DOWN, struct.pack("I", WITHOUT_JOURNAL))
        os.close(handle)
        # What the writer says from now on it says of a disk that is gone; it fails at its next commit.
        told = first + writer.stdout.read()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    finally:
        subprocess.run(["umount", mount], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        reader = subprocess.run(
            [sys.executable, "-c", READER, *arguments], input=told, capture_output=True, text=True, check=False
        )
    finally:
        subprocess.run(["umount", mount], check=True)
    acknowledged = len(told.split())
    lines = reader.stdout.splitlines()
    if reader.returncode != 0 or len(lines) != 1:
        print(f"    {(reader.stdout + reader.stderr).strip().splitlines()[-1]}")
        return acknowledged, acknowledged
    return acknowledged, int(lines[0])


def main() -> int:
    """Cut the power several times under each kind of writer; return 1 if something acknowledged was lost."""
    cuts = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    bad = False
    for what in ("enqueue", "end"):
        for name, environment in (("default", {}), ("QUEUECTL_SYNCHRONOUS=normal", {"QUEUECTL_SYNCHRONOUS": "normal"})):
            print(f"{what}, {name}")
            for cut in range(cuts):
                with tempfile.TemporaryDirectory() as folder:
                    acknowledged, lost = one_cut(folder, what, 0.15 + 0.1 * cut, environment)
                print(f"  {acknowledged} acknowledged, {lost} lost")
                bad = bad or (lost > 0 and not environment)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
