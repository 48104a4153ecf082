"""``python3 -m bench [PART ...]``: measure, keep the figures, write RESULTS.md and its plots.

Parts: startup, store, latency, drain, growth, queues, memory, crowd, peers; without a name, all of them. Each is
recorded when it is done, so that a run which was stopped goes on with the part it was at: ``--resume``. ``--check``
compares with the recorded ratios and fails when one is more than a quarter worse; ``--rounds N`` and ``--jobs N`` make
a run shorter or surer; ``--large`` adds five million ended jobs to ``growth``. ``peers`` measures what of its peers is
installed in the environment whose Python runs it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import Any, Callable, Dict, Iterator, List, Tuple

from bench import crowd, drain, growth, latency, local_peers, many_queues, measure, memory, report, startup, store

Part = Callable[[int, int], Dict[str, Any]]
PARTS: Dict[str, Part] = {
    "startup": startup.run,
    "store": store.run,
    "latency": latency.run,
    "drain": drain.run,
    "growth": growth.run,
    "queues": many_queues.run,
    "memory": memory.run,
    "crowd": crowd.run,
    "peers": local_peers.run,
}
WORSE = 1.25
UNFINISHED = "unfinished.json"  # beside the results: what a run that was stopped has still to do


def arguments() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    parser = argparse.ArgumentParser(prog="python3 -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="paired runs per figure (default 5)")
    parser.add_argument("--jobs", type=int, default=5000, help="jobs per drain (default 5000)")
    parser.add_argument("--check", action="store_true", help="compare with the recorded ratios, change nothing")
    parser.add_argument("--large", action="store_true", help="growth: also a million pending and five million ended")
    parser.add_argument("--resume", action="store_true", help="do what is left of the run that was stopped, as it was")
    return parser


def main() -> int:
    """Measure the parts asked for, or all."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and workers end with us
    parser = arguments()
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    if given.resume:
        unfinished = measure.RESULTS.with_name(UNFINISHED)
        if given.parts or given.check:
            parser.error("--resume takes its parts from the run that was stopped: leave out parts and --check")
        if not unfinished.exists():
            parser.error("there is no run to resume: the last one was finished")
        given = argparse.Namespace(**json.loads(unfinished.read_text()))
    parts = given.parts or list(PARTS)
    if given.check:
        return check(parts, given)
    record(parts, given)
    return 0


def measured(part: str, given: argparse.Namespace) -> Dict[str, Any]:
    """Return the figures of one part."""
    print(f"{part} ...", file=sys.stderr)
    run = growth.run_large if part == "growth" and given.large else PARTS[part]
    return run(given.rounds, given.jobs)


def record(parts: List[str], given: argparse.Namespace) -> None:
    """Measure and record part by part; on the way there is a note of what is left."""
    unfinished = measure.RESULTS.with_name(UNFINISHED)
    for done, part in enumerate(parts):
        unfinished.write_text(json.dumps({**vars(given), "parts": parts[done:]}) + "\n")
        try:
            measure.keep(part, measured(part, given))
        except BaseException:
            print(f"stopped in {part}; go on with it by: python3 -m bench --resume", file=sys.stderr)
            raise
        report.write()
    unfinished.unlink()


def check(parts: List[str], given: argparse.Namespace) -> int:
    """Measure, and print each ratio beside the recorded one, part by part."""
    recorded = measure.load()
    any_worse = False
    for part in parts:
        for name, now, then, worse in compare(part, recorded.get(part, {}).get("rows", {}), measured(part, given)):
            print(f"{'WORSE' if worse else 'ok':5}  {now:<6g} recorded {then:<6g} {part}, {name}", flush=True)
            any_worse = any_worse or worse
    print("see WORSE" if any_worse else "no ratio is more than a quarter worse than recorded")
    return 1 if any_worse else 0


def compare(part: str, before: Dict[str, Any], after: Dict[str, Any]) -> Iterator[Tuple[str, float, float, bool]]:
    """Yield each ratio's name, the one measured, the one recorded, and whether it got more than a quarter worse.

    Shares of a floor should grow, multiples of one shrink.
    """
    for name, figure in after.items():
        old = before.get(name)
        if part == "peers" and not name.startswith(local_peers.OURS):
            continue  # what others do is not ours to mend
        if isinstance(figure, dict) and isinstance(old, dict):
            now, then = figure["share of xargs"], old["share of xargs"]
            if isinstance(now, float) and isinstance(then, float):
                yield f"{name}: share of xargs", now, then, now * WORSE < then
        elif "/" in name and old is not None:
            more_is_better = "bare" in name
            yield name, figure, old, (figure * WORSE < old) if more_is_better else (figure > old * WORSE)


if __name__ == "__main__":
    sys.exit(main())
