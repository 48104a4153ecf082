"""One bar chart, as SVG, without any library; readable on a light and on a dark page."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence, Tuple
from xml.sax.saxutils import escape

COLOURS = ("#1f5fa8", "#d9822b", "#3a8f5c", "#8a5bb0")
BAR, GAP, TOP, FULL = 12, 10, 34, 400  # FULL: the length of the longest bar
LETTER = 6.6  # about what one takes at 12 px


class Bars(NamedTuple):
    """A group of bars, one per series; None where there is no figure."""

    name: str
    values: Sequence[Optional[float]]


def bar_chart(
    title: str, groups: Sequence[Bars], series: Sequence[str], line: Optional[Tuple[float, str]] = None
) -> str:
    """Draw groups of bars below each other and a dashed line at a value; *series* are the bars of a group."""
    left = 24 + round(LETTER * max(len(group.name) for group in groups))
    values = [value for group in groups for value in group.values if value is not None]
    scale = FULL / max([*values, line[0] if line else 0.0])
    height = BAR * len(series) + GAP
    bottom = TOP + height * len(groups)
    total = bottom + (46 if len(series) > 1 else 24)
    width = max(left + FULL + 70, 24 + sum(30 + round(LETTER * len(name)) for name in series))
    size = f'width="{width}" height="{total}"'
    font = 'font-family="sans-serif" font-size="12" fill="#1a1a1a"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>',
        f"<title>{escape(title)}</title>",
        f'<rect {size} rx="6" fill="#ffffff"/>',
        f'<text x="12" y="21" font-weight="bold">{escape(title)}</text>',
    ]
    if line:
        x = round(left + line[0] * scale)
        parts.append(f'<path d="M{x} {TOP - 4}V{bottom}" stroke="#666666" stroke-dasharray="4"/>')
        parts.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{escape(line[1])}</text>')
    for index, group in enumerate(groups):
        parts += _group(group, TOP + index * height, left, scale)
    return "\n".join([*parts, *_legend(series, bottom + 34), "</svg>"]) + "\n"


def _group(group: Bars, top: int, left: int, scale: float) -> List[str]:
    middle = top + BAR * len(group.values) / 2 + 4
    parts = [f'<text x="{left - 8}" y="{middle:g}" text-anchor="end">{escape(group.name)}</text>']
    for index, value in enumerate(group.values):
        y = top + index * BAR
        length = 0 if value is None else round(value * scale)
        if value is not None:
            colour = COLOURS[index % len(COLOURS)]
            parts.append(f'<rect x="{left}" y="{y}" width="{length}" height="{BAR - 2}" fill="{colour}"/>')
        said = "-" if value is None else f"{value:.2f}" if value >= 0.095 else f"{value:.1g}"
        parts.append(f'<text x="{left + length + 5}" y="{y + 9}" font-size="10">{said}</text>')
    return parts


def _legend(series: Sequence[str], top: int) -> List[str]:
    parts = []
    x = 12
    for index, name in enumerate(series if len(series) > 1 else ()):
        parts.append(f'<rect x="{x}" y="{top - 9}" width="10" height="10" fill="{COLOURS[index % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 14}" y="{top}">{escape(name)}</text>')
        x += 30 + round(LETTER * len(name))
    return parts
