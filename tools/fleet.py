"""Three hosts, one database, a storm: ``sudo python3 tools/fleet.py [--jobs N] [--minutes M]`` (Linux, root).

Three hosts in network namespaces with four workers each run N jobs (20,000) while for M minutes (10) the database is
restarted every 20 s, in order and as by a crash in turns, and a host is cut off every 30 s: its link goes down, its
packets are dropped, its connections are reset. The oracle of the tests then looks whether a job was lost, ran twice at
once or is stuck, and a trigger in the database whether an end was accepted of a run that had ended already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

from environment import ROOT, python_with


def storm(given: argparse.Namespace) -> int:
    """Run the storm in this process and print its figures."""
    sys.path.insert(0, str(ROOT))
    from tests.fleet.hosts import why_not
    from tests.fleet.storm import Weather, rage

    reason = why_not()
    if reason is not None:
        sys.exit(f"fleet.py: {reason}")
    weather = Weather(jobs=given.jobs, lasts_s=given.minutes * 60, seed=given.seed, more_queues=given.more_queues)
    folder = Path(tempfile.mkdtemp(prefix="fleet"))
    try:
        figures = rage(folder, weather, tell)
    finally:
        if given.keep:
            print(f"everything is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    show(figures)
    return 1 if figures["problems"] or figures["stuck"] else 0


def tell(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def show(figures: Dict[str, Any]) -> None:
    """Print the figures, the problems last."""
    problems = figures.pop("problems")
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    print("\n".join(problems[:50]) or "nothing is wrong")
    figures["problems"] = problems


def main() -> int:
    """Run the storm in an environment that has psycopg and the server's programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--more-queues", type=int, default=0, help="beside the three; they get half of the jobs")
    parser.add_argument("--keep", action="store_true", help="leave the hosts' files for a look")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        return storm(given)
    os.chdir(ROOT)
    return subprocess.run([python_with("test"), *sys.argv, "--here"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
