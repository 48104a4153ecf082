"""What all benchmarks share: paired runs, medians, where the figures go, what machine made them.

A figure here is a ratio of two things measured one after the other in the same run: absolute times of
a shared machine mean nothing the next day. Results are kept in ``bench/results.json`` part by part, so that
a part can be run alone and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results.json"
QUEUECTL = [sys.executable, "-m", "queuectl"]
# Not as in an installed queuectl, which pip compiles: each process would compile its modules anew.
UNUSUAL = "PYTHONDONTWRITEBYTECODE"


@contextmanager
def scratch_home() -> Iterator[Path]:
    """Give a QUEUECTL_HOME of its own and take it away again."""
    folder = Path(tempfile.mkdtemp(prefix="qb-"))
    before = dict(os.environ)
    for name in before:
        if name.startswith("QUEUECTL_") or name == UNUSUAL:
            del os.environ[name]
    os.environ["QUEUECTL_HOME"] = str(folder)
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def seconds(work: Callable[[], Any]) -> float:
    """Return how long *work* takes, in seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def quiet(words: Sequence[str], **options: Any) -> None:
    """Run a command, drop what it prints, fail if it fails."""
    subprocess.run(list(words), check=True, stdout=subprocess.DEVNULL, **options)


def paired(rounds: int, *works: Callable[[], float]) -> List[List[float]]:
    """Run all *works* one after the other, *rounds* times, the order turned each time; return each one's figures.

    Turning the order keeps a drift of the machine from favouring one of them.
    """
    figures: List[List[float]] = [[] for _ in works]
    for turn in range(rounds):
        order = list(range(len(works)))
        if turn % 2:
            order.reverse()
        for index in order:
            figures[index].append(works[index]())
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return figures


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the pairs' ratios."""
    return round(statistics.median(a / b for a, b in zip(above, below)), 3)


def median(figures: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(figures)


def percentile(figures: Sequence[float], share: float) -> float:
    """Return the figure below which *share* of all lie."""
    ordered = sorted(figures)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _python() -> str:
    """Name the interpreter; a distribution's own is compiled with profiles and faster than one that was not."""
    return platform.python_version() + (" (the system's)" if sys.base_prefix == "/usr" else "")


def machine() -> Dict[str, Any]:
    """Return what the figures were made on."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory, GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "file system": _file_system(tempfile.gettempdir()),
        "system": f"{platform.system()} {platform.release()}",
        "python": _python(),
        "sqlite": sqlite3.sqlite_version,
        "load": round(os.getloadavg()[0], 1),
    }


def _file_system(path: str) -> str:
    """Return the kind of file system that the stores lie on."""
    found, kind = "", "?"
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, point, this = line.split()[:3]
        if len(point) >= len(found) and (os.path.realpath(path) + "/").startswith(point.rstrip("/") + "/"):
            found, kind = point, this
    return kind


def keep(part: str, rows: Dict[str, Any]) -> None:
    """Write one part's figures into the results, beside those of the other parts."""
    results = load()
    results[part] = {"machine": machine(), "on": time.strftime("%Y-%m-%d"), "rows": rows}
    hidden = RESULTS.with_suffix(".new")
    # The parts by name, the rows of each as they were measured.
    hidden.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    hidden.replace(RESULTS)
    for name, figure in rows.items():
        print(f"  {name}: {figure}")


def load() -> Dict[str, Any]:
    """Return all results so far."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def tree_usage(pids: Sequence[int]) -> Tuple[float, int]:
    """Return (CPU seconds so far, PSS bytes) of these processes together. Linux."""
    cpu_s, pss = 0.0, 0
    for pid in pids:
        # By the scheduler: the times in "stat" are counted in hundredths of a second.
        for task in Path(f"/proc/{pid}/task").iterdir():
            cpu_s += int((task / "schedstat").read_text().split()[0]) / 1e9
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                pss += int(line.split()[1]) * 1024
    return cpu_s, pss
