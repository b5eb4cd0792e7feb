"""A plot as an SVG file, written by hand: lines over two logarithmic axes, a panel beside a panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

PANEL_WIDTH, HEIGHT, MARGIN, LEGEND_WIDTH = 420, 360, 56, 190
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd")
Points = Sequence[tuple[float, float]]


def write(path: Path, panels: Mapping[str, Mapping[str, Points]], across: str, up: str) -> None:
    """`panels`: title → name of a line → its points, all above zero."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    width = len(panels) * PANEL_WIDTH + LEGEND_WIDTH
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{HEIGHT}" fill="white"/>'
    ]
    for number, (title, lines) in enumerate(panels.items()):
        parts += _panel(number * PANEL_WIDTH, title, lines, names, across, up)
    for number, name in enumerate(names):
        left, top = width - LEGEND_WIDTH + 10, MARGIN + 18 * number
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<line x1="{left}" y1="{top}" x2="{left + 18}" y2="{top}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 24}" y="{top + 4}">{escape(name)}</text>')
    path.write_text("\n".join([*parts, "</svg>", ""]), "utf-8")


def _panel(left: int, title: str, lines: Mapping[str, Points], names: Sequence[str], across: str, up: str) -> list[str]:
    points = [point for line in lines.values() for point in line]
    right, low = left + PANEL_WIDTH - 16, HEIGHT - MARGIN
    x_of = _scaled([x for x, _ in points], left + MARGIN, right)
    y_of = _scaled([y for _, y in points], low, MARGIN)
    parts = [
        f'<text x="{left + MARGIN}" y="24" font-weight="bold">{escape(title)}</text>',
        f'<text x="{(left + MARGIN + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(across)}</text>',
        f'<text x="{left + 14}" y="{HEIGHT / 2}" text-anchor="middle" '
        f'transform="rotate(-90 {left + 14} {HEIGHT / 2})">{escape(up)}</text>',
        f'<path d="M{left + MARGIN} {MARGIN}V{low}H{right}" fill="none" stroke="#444"/>',
    ]
    parts += [
        f'<text x="{x_of(x):.1f}" y="{low + 16}" text-anchor="middle">{x:,.0f}</text>'
        for x in sorted({x for x, _ in points})
    ]
    for power in range(math.floor(math.log10(min(y for _, y in points))), 6):
        if MARGIN <= (y := y_of(10.0**power)) <= low:
            parts.append(f'<path d="M{left + MARGIN} {y:.1f}H{right}" stroke="#ddd"/>')
            parts.append(f'<text x="{left + MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for name, line in lines.items():
        colour = COLOURS[names.index(name) % len(COLOURS)]
        drawn = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in sorted(line))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
    return parts


def _scaled(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    least, most = math.log(min(values)), math.log(max(values))
    spread = (most - least) or 1.0
    return lambda value: start + (math.log(value) - least) / spread * (end - start)
