"""Quality against epsilon as one SVG picture: a row of panels for each data set, a panel for each measure.

Never draws a line between what was measured under a promise and what was measured under none.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from synthfed.plugins.files import write_whole

from .entries import WITHOUT_RUNG, DataSet
from .ladder import MEASURES, SYSTEMS
from .plan import Plan
from .results import Run

SHOWN: Final = ("auc-mean", "tvd2-strict", "coverage")
"""The measures that get a panel."""

# Told apart also by most who do not see all colours (Okabe & Ito 2008, Color Universal Design).
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31", "#7F7F7F")
_REAL: Final = "#999999"
_WIDTH, _HEIGHT = 210, 130  # of a panel's frame, in pixels
_LEFT, _TOP, _GAP_X, _GAP_Y = 46, 24, 52, 46
_LINE: Final = 16  # of the legend
_LEAST_SPAN: Final = 0.02  # of a panel's values: less is no difference
_STYLE: Final = "text{font:11px sans-serif;fill:#222}.f{fill:none;stroke:#888}.t{font-size:12px;font-weight:bold}"

Point = tuple[float, float, float, float]
"""Place on the axis, mean, least and greatest of the seeds."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A system's numbers of one measure, by place on the axis of epsilons."""

    colour: str
    is_dashed: bool
    points: Sequence[Point]


def write_plot(path: Path, plan: Plan, runs: Sequence[Run]) -> None:
    """Write the picture of a ladder.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_whole(path, [draw(plan, runs).encode()])


def draw(plan: Plan, runs: Sequence[Run]) -> str:
    """Return the picture; a data set without a run that ended well has no panel.

    Args:
        plan: a ladder; without epsilons there is one place on the axis.
        runs: those of the plan.
    """
    good = [run for run in runs if not run.error]
    data = [each for each in plan.data if any(run.data == each.name for run in good)]
    rungs = sorted({run.rung for run in good}, key=lambda rung: float(rung or 0))
    systems = list(dict.fromkeys((run.model, run.split) for run in good))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(dict.fromkeys(name for name, _ in systems))}
    parts = [_legend(i, _label(*system), colours[system[0]], _is_dashed(system[1])) for i, system in enumerate(systems)]
    parts.append(_legend(len(systems), "real rows", _REAL, True))
    top = _TOP + _LINE * (len(systems) // len(SHOWN) + 1)
    for row, each in enumerate(data):
        mine = [run for run in good if run.data == each.name]
        for column, measure in enumerate(SHOWN):
            corner = (_LEFT + column * (_WIDTH + _GAP_X), top + _GAP_Y / 2 + row * (_HEIGHT + _GAP_Y))
            parts.append(_panel(corner, each, measure, mine, rungs, colours))
    width = _LEFT + len(SHOWN) * (_WIDTH + _GAP_X)
    height = top + len(data) * (_HEIGHT + _GAP_Y) + _GAP_Y / 2
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", ground, *parts, "</svg>", ""])


def _legend(place: int, label: str, colour: str, is_dashed: bool) -> str:
    x = _LEFT + (place % len(SHOWN)) * (_WIDTH + _GAP_X)
    y = _TOP + (place // len(SHOWN)) * _LINE - 8
    return _stroke([(x, y), (x + 24, y)], colour, is_dashed) + _text(x + 30, y + 4, label)


def _label(name: str, split: str) -> str:
    return SYSTEMS.get(name, name) + (f", {split} sites" if split else "")


def _is_dashed(split: str) -> bool:
    return split == "skewed"


def _panel(
    corner: tuple[float, float],
    data: DataSet,
    measure: str,
    runs: Sequence[Run],
    rungs: Sequence[str],
    colours: dict[str, str],
) -> str:
    """Return one panel: its frame and axes, a line for each system, and what real rows reach."""
    left, top = corner
    lines = _lines(measure, runs, rungs, colours)
    real = [run.measures[measure].real for run in runs if measure in run.measures]
    ceiling = [value for value in real if value is not None]
    values = [value for line in lines for point in line.points for value in point[2:]] + ceiling
    if not values:
        return ""
    low, high = _span(values)

    def x_of(place: float) -> float:
        return left + _WIDTH * (place + 0.5) / len(rungs)

    def y_of(value: float) -> float:
        return top + _HEIGHT * (1 - (value - low) / (high - low))

    parts = [f'<rect class="f" x="{left:g}" y="{top:g}" width="{_WIDTH}" height="{_HEIGHT}"/>']
    parts.append(_text(left, top - 6, f"{data.name}: {MEASURES[measure]}", "t"))
    labels = ["none" if rung == WITHOUT_RUNG else rung for rung in rungs]
    parts += [_text(x_of(i) - 4, top + _HEIGHT + 13, label) for i, label in enumerate(labels)]
    parts += [_text(left - 36, y_of(value) + 4, f"{value:.2f}") for value in (low, (low + high) / 2, high)]
    if ceiling:
        level = y_of(statistics.mean(ceiling))
        parts.append(_stroke([(left, level), (left + _WIDTH, level)], _REAL, True))
    parts += [_curve(line, x_of, y_of, rungs) for line in lines]
    return "\n".join(parts)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), (_LEAST_SPAN - (high - low)) / 2)
    return low - margin, high + margin


def _lines(measure: str, runs: Sequence[Run], rungs: Sequence[str], colours: dict[str, str]) -> list[_Line]:
    found = []
    for name, split in dict.fromkeys((run.model, run.split) for run in runs):
        points = []
        for place, rung in enumerate(rungs):
            seeds = [
                run.measures[measure].value
                for run in runs
                if (run.model, run.split, run.rung) == (name, split, rung) and measure in run.measures
            ]
            if seeds:
                points.append((float(place), statistics.mean(seeds), min(seeds), max(seeds)))
        found.append(_Line(colours[name], _is_dashed(split), points))
    return found


def _curve(line: _Line, x_of: Callable[[float], float], y_of: Callable[[float], float], rungs: Sequence[str]) -> str:
    """Return a system's points, each with the range of its seeds, joined where something is promised."""
    joined = [(x_of(place), y_of(mean)) for place, mean, _, _ in line.points if rungs[int(place)] != WITHOUT_RUNG]
    parts = [_stroke(joined, line.colour, line.is_dashed)] if len(joined) > 1 else []
    for place, mean, low, high in line.points:
        x = x_of(place)
        parts.append(f'<circle cx="{x:.1f}" cy="{y_of(mean):.1f}" r="2.5" fill="{line.colour}"/>')
        if low < high:
            parts.append(_stroke([(x, y_of(low)), (x, y_of(high))], line.colour, False))
    return "\n".join(parts)


def _stroke(points: Sequence[tuple[float, float]], colour: str, is_dashed: bool) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="4 3"' if is_dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"{dashes}/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(text)}</text>'
