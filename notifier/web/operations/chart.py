"""A chart as inline SVG, made here: the policy of the pages allows neither styles in attributes nor scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 720, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 10, 24


def lines(series: Mapping[str, Sequence[float]], label: str, first: str, last: str) -> Markup:
    """One line a name, in the classes line-0, line-1 …; `label` says for those who cannot see it what it shows."""
    top = nice(max((max(values, default=0) for values in series.values()), default=0))
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)
    ]
    for share in (0, 0.5, 1):
        y = _y(top * share, top)
        parts.append(
            Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(_LEFT, y, WIDTH - _RIGHT, y)
        )
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_LEFT - 8, y + 4, f"{top * share:g}")
        )
    parts.append(Markup('<text x="{}" y="{}">{}</text>').format(_LEFT, HEIGHT - 4, first))
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(WIDTH - _RIGHT, HEIGHT - 4, last)
    )
    for place, values in enumerate(series.values()):
        points = " ".join(
            f"{_x(index, len(values)):.1f},{_y(value, top):.1f}" for index, value in enumerate(values)
        )
        parts.append(Markup('<polyline class="line line-{}" points="{}"/>').format(place, points))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def nice(value: float) -> float:
    """The next round number of the kind 1, 2, 5 · 10ⁿ; 1 for nothing."""
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value))


def _x(index: int, count: int) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * index / max(count - 1, 1)


def _y(value: float, top: float) -> float:
    return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - value / top), 1)
