"""Hours of the worst day: ``python3 tools/soak.py [--minutes M] [--jobs N] [--seed S]`` (Linux).

Eight workers in three groups run jobs of a dozen kinds while every 0.5 to 3 s somebody is killed with -9 or paused and
let go on: a worker, a supervisor, a whole group, an enqueuer, a ``worker stop``. The oracle of the tests then looks
whether a job was lost, ran twice at once or is stuck, and a trigger in the store whether an end was accepted
of a run that had ended already. Exit code 0 if nothing is wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

from environment import ROOT, python_with


def soak(given: argparse.Namespace) -> int:
    """Let it rage in this process and print the figures."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="soak")))
    os.environ.update(QUEUECTL_HOME=str(folder / ".queuectl"), PYTHONPATH=str(ROOT), HOME=str(folder))
    os.environ.pop("QUEUECTL_DB", None)
    sys.path.insert(0, str(ROOT))
    os.chdir(folder)
    from tests.faults.rampage import Plan, rage

    jobs = given.jobs if given.jobs is not None else max(round(1000 * given.minutes), 200)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(130))  # through the end of rage(), which leaves nothing running
    figures: Dict[str, Any] = {"problems": ["it did not come to its end"]}
    try:
        figures = rage(folder, Plan(jobs=jobs, lasts_s=given.minutes * 60, seed=given.seed), tell)
    finally:
        os.chdir(ROOT)
        if given.keep or figures["problems"]:
            tell(f"everything is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    problems = figures.pop("problems")
    for name, figure in figures.items():
        tell(f"{name}: {figure}")
    tell("\n".join(problems[:50]) or "nothing is wrong")
    return 1 if problems or figures["stuck"] or figures["integrity"] != "ok" else 0


def tell(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def main() -> int:
    """Run in the environment of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long somebody is killed or paused (30)")
    parser.add_argument("--jobs", type=int, help="how many jobs (1000 a minute)")
    parser.add_argument("--seed", type=int, default=1, help="of the dice (1)")
    parser.add_argument("--keep", action="store_true", help="leave the files for a look")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        return soak(given)
    python = python_with("test")
    os.execv(python, [python, str(Path(__file__).resolve()), *sys.argv[1:], "--here"])
    return 1


if __name__ == "__main__":
    sys.exit(main())
