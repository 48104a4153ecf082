"""Write RESULTS.md and its plot from the recorded figures."""

from __future__ import annotations

from typing import Any, Dict, List

from bench.measure import ROOT, load

TITLES = {
    "drain": "Draining a full queue, beside `xargs -P`",
    "startup": "One command as a process",
    "store": "The library's enqueue beside bare SQLite",
    "latency": "From the enqueue to the command, and what idling costs",
    "growth": "What the size of the store costs",
    "memory": "Memory",
    "crowd": "32 enqueuers and 16 workers at once",
    "peers": "Draining `true` two at a time, beside its peers",
    "postgres": "The PostgreSQL store beside procrastinate and pgqueuer",
    "hosts": "From an enqueue on one host to the command on another, through PostgreSQL",
    "scale": "How much one PostgreSQL carries: measured costs, a simulation, a check",
}
COMMANDS = {"postgres": ".peers", "hosts": ".hosts", "scale": ".scale"}
INTRODUCTION = (
    "Made by `python3 -m bench` (`make bench`). Ratios are medians of paired runs, one after the other in the "
    "same run, so they hold on a noisy machine; absolute figures are only there to give an idea."
)


def write() -> None:
    """Write ``bench/RESULTS.md`` and ``bench/drain.svg``."""
    results = load()
    lines = [
        "# Results",
        "",
        INTRODUCTION,
    ]
    for part, title in TITLES.items():
        if part in results:
            lines += _section(title, part, results[part])
    (ROOT / "bench" / "RESULTS.md").write_text("\n".join(lines) + "\n")
    if "drain" in results:
        (ROOT / "bench" / "drain.svg").write_text(_plot(results["drain"]["rows"]))


def _section(title: str, part: str, result: Dict[str, Any]) -> List[str]:
    made = result["machine"]
    lines = ["", f"## {title}", ""]
    rows = result["rows"]
    if all(isinstance(row, dict) for row in rows.values()):
        heads = list(next(iter(rows.values())))
        lines += ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        lines += [f"| {name} | " + " | ".join(str(row[head]) for head in heads) + " |" for name, row in rows.items()]
    else:
        lines += ["| | |", "|---|---:|"]
        lines += [f"| {name} | {figure} |" for name, figure in rows.items()]
    if part == "drain":
        lines += ["", "![share of the rate of xargs](drain.svg)"]
    made_on = (
        f"{result['on']}: {made['cores']} cores ({made['cpu']}), {made['system']}, Python {made['python']}, "
        f"SQLite {made['sqlite']}, load {made['load']} at the end. `python3 -m bench{COMMANDS.get(part, ' ' + part)}`"
    )
    return [*lines, "", made_on]


def _plot(rows: Dict[str, Dict[str, Any]]) -> str:
    """Draw each case's share of the rate of xargs as a bar; the line is xargs itself."""
    height, left, full = 34, 190, 360
    size = f'width="{left + int(full * 1.3)}" height="{len(rows) * height + 40}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">']
    for index, (name, row) in enumerate(rows.items()):
        y, width = index * height + 8, row["share of xargs"] * full
        parts.append(f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width:.0f}" height="22" fill="#3b7dd8"/>')
        parts.append(f'<text x="{left + width + 6:.0f}" y="{y + 16}">{row["share of xargs"]:.2f}</text>')
    bottom = len(rows) * height + 8
    parts.append(
        f'<line x1="{left + full}" x2="{left + full}" y1="0" y2="{bottom}" stroke="#888" stroke-dasharray="4"/>'
    )
    parts.append(f'<text x="{left + full}" y="{bottom + 18}" text-anchor="middle">xargs -P</text></svg>')
    return "\n".join(parts) + "\n"
