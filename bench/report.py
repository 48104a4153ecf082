"""RESULTS.md and its plots, made from the recorded figures alone."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

from bench import measure
from bench.plot import Bars, bar_chart

TITLES = {
    "drain": "Draining a full queue, beside `xargs -P`",
    "peers": "Draining `true` beside other queues",
    "startup": "One command as a process",
    "store": "The library's enqueue beside bare SQLite",
    "latency": "From the enqueue to the command, and what idling costs",
    "growth": "What the size of the store costs",
    "queues": "Claims from many queues",
    "memory": "Memory",
    "crowd": "32 enqueuers and 16 workers at once",
    "postgres": "The PostgreSQL store beside procrastinate and pgqueuer",
    "hosts": "From an enqueue on one host to the command on another, through PostgreSQL",
    "scale": "How much one PostgreSQL carries: measured costs, a simulation, a check",
}
COMMANDS = {"postgres": ".peers", "hosts": ".hosts", "scale": ".scale"}
INTRODUCTION = (
    "Made by `python3 -m bench` (`make bench`). Ratios are medians of paired runs, one after the other in the "
    "same run, so they hold on a noisy machine; absolute figures are only there to give an idea."
)
PEERS = (
    "Jobs a second at so many at a time, and in brackets the share of the rate of `xargs -P` in the same rounds. That "
    "the work was done is checked. The start of the workers counts for queuectl; task-spooler and nq have it behind "
    "them, with a process that waits for each job, and the libraries are measured from the end of the first job to "
    "that of the last."
)
Rows = Dict[str, Any]


def write() -> None:
    """Write RESULTS.md and the plots beside the figures."""
    for name, text in rendered(measure.load()).items():
        measure.RESULTS.with_name(name).write_text(text, encoding="utf-8")


def rendered(results: Dict[str, Any]) -> Dict[str, str]:
    """Return the text of each file by its name."""
    lines = ["# Results", "", INTRODUCTION]
    files = {}
    for part, title in TITLES.items():
        if part in results:
            lines += _section(title, part, results[part])
            if part in PLOTS:
                files[f"{part}.svg"] = PLOTS[part][0](results[part]["rows"])
    return {"RESULTS.md": "\n".join(lines) + "\n", **files}


# -- tables -----------------------------------------------------------------------------------


def _section(title: str, part: str, result: Dict[str, Any]) -> List[str]:
    rows = result["rows"]
    if part == "peers":
        lines = _peers(rows)
    elif all(isinstance(row, dict) for row in rows.values()):
        heads = list(next(iter(rows.values())))
        lines = _table(heads, {name: [row[head] for head in heads] for name, row in rows.items()})
    else:
        lines = ["| | |", "|---|---:|", *(f"| {name} | {figure} |" for name, figure in rows.items())]
    if part in PLOTS:
        lines += ["", f"![{PLOTS[part][1]}]({part}.svg)"]
    return ["", f"## {title}", "", *lines, "", _made(part, result)]


def _made(part: str, result: Dict[str, Any]) -> str:
    """Say when, on what and by which command."""
    made = result["machine"]
    memory = f", {made['memory, GiB']} GiB" if "memory, GiB" in made else ""
    disk = f", {made['file system']}" if "file system" in made else ""
    return (
        f"{result['on']}: {made['cores']} cores ({made['cpu']}){memory}, {made['system']}{disk}, "
        f"Python {made['python']}, SQLite {made['sqlite']}, load {made['load']} at the end. "
        f"`python3 -m bench{COMMANDS.get(part, ' ' + part)}`"
    )


def _table(heads: List[str], rows: Dict[str, List[Any]]) -> List[str]:
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    return lines + [f"| {name} | " + " | ".join(map(str, cells)) + " |" for name, cells in rows.items()]


def _peers(rows: Rows) -> List[str]:
    """Turn a row per peer and number of slots into a row per peer."""
    names, slots = _names(rows)
    found = {}
    for name in names:
        cells = [_cell(rows.get(f"{name}: {number}")) for number in slots]
        own = [row for key, row in rows.items() if key.startswith(f"{name}: ")]
        over = [row["queuectl's rate over it"] for row in own if isinstance(row["queuectl's rate over it"], float)]
        span = " to ".join(sorted({f"{figure:.2f}" for figure in (min(over), max(over))}, key=float)) if over else "-"
        found[name] = [*cells, span, *(own[0][head] for head in ("jobs", "version", "kept"))]
    heads = [*(f"{number} at a time" for number in slots), "queuectl's rate over it", "jobs", "version", "kept"]
    return [PEERS, "", *_table(heads, found)]


def _names(rows: Rows) -> Tuple[List[str], List[str]]:
    """Return the peers, the fastest first, and the numbers of slots."""
    best: Dict[str, float] = {}
    slots: Dict[str, None] = {}
    for key, row in rows.items():
        name, _, number = key.rpartition(": ")
        best[name] = max(best.get(name, 0.0), _share(row) or 0.0)
        if number != "-":
            slots[number] = None
    return sorted(best, key=lambda name: -best[name]), sorted(slots, key=int)


def _cell(row: Optional[Rows]) -> str:
    if row is None:
        return "-"
    share = _share(row)
    return str(row["share of xargs"]) if share is None else f"{row['jobs a second']:g} ({share:.3f})"


def _share(row: Optional[Rows]) -> Optional[float]:
    share = row["share of xargs"] if row else None
    return float(share) if isinstance(share, (int, float)) else None


# -- plots ------------------------------------------------------------------------------------


def plot_drain(rows: Rows) -> str:
    """Draw each case's share of the rate of xargs."""
    groups = [Bars(name, [_share(row)]) for name, row in rows.items()]
    return bar_chart("Rate of draining, as a share of that of xargs", groups, [""], (1.0, "xargs -P"))


def plot_peers(rows: Rows) -> str:
    """Draw everybody's share of the rate of xargs, a bar per number of slots."""
    names, slots = _names(rows)
    groups = [Bars(name, [_share(rows.get(f"{name}: {number}")) for number in slots]) for name in names]
    groups = [group for group in groups if any(value is not None for value in group.values)]
    series = [f"{number} at a time" for number in slots]
    return bar_chart("Rate of draining, as a share of that of xargs", groups, series, (1.0, "xargs -P"))


def plot_growth(rows: Rows) -> str:
    """Draw what each call costs in a store of each size over its cost in a small one."""
    mark = " / in a small store"
    found: Dict[str, Dict[str, float]] = {}
    for name, figure in rows.items():
        if name.endswith(mark):
            size, _, call = name[: -len(mark)].partition(": ")
            found.setdefault(call, {})[size] = figure
    sizes = sorted({size for calls in found.values() for size in calls}, key=_numbers)
    groups = [Bars(call, [figures.get(size) for size in sizes]) for call, figures in found.items()]
    return bar_chart("Cost in a large store, as a multiple of that in a small one", groups, sizes, (1.0, "small store"))


def _numbers(size: str) -> List[int]:
    return [int(word.replace(",", "")) for word in size.split() if word[0].isdigit()]


def plot_startup(rows: Rows) -> str:
    """Draw what a command costs over a bare interpreter."""
    groups = [Bars(name.replace(" / ", ", over python3 -c "), [rows[name]]) for name in rows if " / " in name]
    return bar_chart("Start to exit, as a multiple of a bare interpreter's", groups, [""], (1.0, "interpreter"))


PLOTS: Dict[str, Tuple[Callable[[Rows], str], str]] = {
    "drain": (plot_drain, "share of the rate of xargs"),
    "peers": (plot_peers, "share of the rate of xargs, at 1, 2, 4 and 16 at a time"),
    "growth": (plot_growth, "cost of each call in a large store over that in a small one"),
    "startup": (plot_startup, "time of a command over that of a bare interpreter"),
}

if __name__ == "__main__":
    write()
