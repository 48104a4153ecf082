"""``python3 -m bench [PART ...]``: measure, keep the figures, write RESULTS.md.

Parts: startup, store, latency, drain, growth, memory, crowd, peers. ``--check`` compares with the recorded ratios
and fails when one is more than a quarter worse; ``--rounds N`` and ``--jobs N`` make a run shorter or surer;
``--large`` adds five million ended jobs to ``growth``.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List

from bench import crowd, drain, growth, latency, local_peers, memory, startup, store
from bench.measure import keep, load
from bench.report import write

PARTS = {
    "startup": startup.run,
    "store": store.run,
    "latency": latency.run,
    "drain": drain.run,
    "growth": growth.run,
    "memory": memory.run,
    "crowd": crowd.run,
    "peers": local_peers.run,
}
WORSE = 1.25


def main() -> int:
    """Measure the parts asked for, or all."""
    parser = argparse.ArgumentParser(prog="python3 -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="paired runs per figure (default 5)")
    parser.add_argument("--jobs", type=int, default=5000, help="jobs per drain (default 5000)")
    parser.add_argument("--check", action="store_true", help="compare with the recorded ratios, change nothing")
    parser.add_argument("--large", action="store_true", help="growth: also a million pending and five million ended")
    given = parser.parse_args()
    if given.large:
        PARTS["growth"] = growth.run_large
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    recorded = load()
    worse: List[str] = []
    for part in given.parts or PARTS:
        print(f"{part} ...", file=sys.stderr)
        rows = PARTS[part](given.rounds, given.jobs)
        if given.check:
            worse += compare(part, recorded.get(part, {}).get("rows", {}), rows)
        else:
            keep(part, rows)
    if given.check:
        print("\n".join(worse) or "no ratio is more than a quarter worse than recorded")
        return 1 if worse else 0
    write()
    return 0


def compare(part: str, before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    """Return what got more than a quarter worse; shares of a floor should grow, multiples of one shrink."""
    found = []
    for name, figure in after.items():
        old = before.get(name)
        if isinstance(figure, dict) and isinstance(old, dict):
            now, then = figure["share of xargs"], old["share of xargs"]
            if isinstance(now, float) and isinstance(then, float) and now * WORSE < then:
                found.append(f"{part}, {name}: {now} of xargs, recorded {then}")
        elif "/" in name and old is not None:
            more_is_better = "bare" in name
            if (figure * WORSE < old) if more_is_better else (figure > old * WORSE):
                found.append(f"{part}, {name}: {figure}, recorded {old}")
    return found


if __name__ == "__main__":
    sys.exit(main())
