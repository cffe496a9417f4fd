"""Plots as inline SVG, coloured by the page's style sheet, so that they follow light, dark and print."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_ROW = 26
_TICKS = 5


@dataclass(frozen=True)
class Mark:
    """A value on a row: its place, and the interval around it where there is one; ``side`` names its colour."""

    side: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line of a curve; ``side`` names its colour, ``name`` stands in the legend."""

    side: str
    name: str
    points: Sequence[tuple[float, float]]


def dots(
    rows: Sequence[tuple[str, Sequence[Mark]]],
    low: float,
    high: float,
    title: str,
    unit: str = "",
    width: int = 940,
    digits: int = 1,
) -> str:
    """Rows of marks on one scale, the marks of a row joined; intervals as whiskers; the last mark's value beside it."""
    left, right = _label_width([label for label, _ in rows]), width - 50
    scale = _scale(low, high, left, right)
    height = _ROW * len(rows) + 30
    body = list(_x_axis(low, high, left, right, _ROW * len(rows) + 6, unit))
    for number, (label, marks) in enumerate(rows):
        y = _ROW * number + _ROW / 2
        body.append(_text(left - 8, y + 4, label, "end"))
        places = [scale(mark.value) for mark in marks]
        if len(places) > 1 and all(mark.low is None for mark in marks):
            body.append(f'<line class="join" x1="{min(places):.1f}" x2="{max(places):.1f}" y1="{y}" y2="{y}"/>')
        for step, (mark, x) in enumerate(zip(marks, places, strict=True)):
            at = y if mark.low is None else y - 5 + 10 * step
            if mark.low is not None and mark.high is not None:
                ends = f'x1="{scale(mark.low):.1f}" x2="{scale(mark.high):.1f}"'
                body.append(f'<line class="whisker {mark.side}" {ends} y1="{at}" y2="{at}"/>')
            tip = f"<title>{html.escape(label)}, {mark.side}: {mark.value:.{digits + 1}f}{html.escape(unit)}</title>"
            body.append(f'<circle class="{mark.side}" cx="{x:.1f}" cy="{at}" r="5">{tip}</circle>')
        if marks:
            body.append(_text(right + 8, y + 4, f"{marks[-1].value:.{digits}f}", "start", "value"))
    return _svg(width, height, title, body)


def bars(rows: Sequence[tuple[str, float]], title: str, unit: str = "", width: int = 940) -> str:
    """Horizontal bars from zero, with their values."""
    left, right = _label_width([label for label, _ in rows]), width - 60
    high = max((value for _, value in rows), default=1.0) or 1.0
    scale = _scale(0.0, high, left, right)
    body = []
    for number, (label, value) in enumerate(rows):
        y, x = 20 * number, scale(max(value, 0.0))
        body.append(_text(left - 8, y + 14, label, "end"))
        body.append(f'<rect class="bundle" x="{left}" y="{y + 3}" width="{max(x - left, 1):.1f}" height="14" rx="2"/>')
        body.append(_text(x + 6, y + 14, f"{value:.1f}{unit}", "start", "value"))
    return _svg(width, 20 * len(rows) + 6, title, body)


def stacks(rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]], title: str, width: int = 940) -> str:
    """A bar for each row, of equal length, cut into its parts (kind, what it says, share 0..1); negative ones are left
    out, and a share of 6 % or more is written into its part."""
    left, right = _label_width([label for label, _ in rows]), width - 16
    body = []
    for number, (label, parts) in enumerate(rows):
        y, x = 40 * number + 4, float(left)
        body.append(_text(left - 8, y + 20, label, "end"))
        whole = sum(max(share, 0.0) for _, _, share in parts) or 1.0
        for kind, tip, share in parts:
            wide = (right - left) * max(share, 0.0) / whole
            if wide < 0.05:
                continue
            said = f"<title>{html.escape(tip)}</title>"
            body.append(f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{wide:.1f}" height="30">{said}</rect>')
            if share >= 0.06:
                body.append(_text(x + wide / 2, y + 19, f"{100 * share:.0f} %", "middle", "inside"))
            x += wide
    return _svg(width, 40 * len(rows) + 4, title, body)


def curve(
    series: Sequence[Series],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    title: str,
    x_label: str,
    y_label: str,
    *,
    diagonal: bool = False,
    marker: tuple[float, str] | None = None,
    width: int = 480,
    height: int = 320,
) -> str:
    """Lines with points; ``diagonal`` draws where x and y are equal, ``marker`` a named upright at an x."""
    left, right, top, bottom = 56, width - 16, 28, height - 46
    across, down = _scale(*x_range, left, right), _scale(*y_range, bottom, top)
    body = list(_x_axis(*x_range, left, right, bottom, "", top))
    for value in _ticks(*y_range):
        y = down(value)
        body.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(_text(left - 6, y + 4, f"{value:g}", "end", "tick"))
    body.append(_text((left + right) / 2, height - 8, x_label, "middle", "tick"))
    body.append(_text(left, 14, y_label, "start", "tick"))
    if diagonal:
        ends = f'x1="{across(x_range[0]):.1f}" y1="{down(x_range[0]):.1f}" x2="{across(x_range[1]):.1f}"'
        body.append(f'<line class="ideal" {ends} y2="{down(x_range[1]):.1f}"/>')
    if marker is not None:
        x = across(min(max(marker[0], x_range[0]), x_range[1]))
        body.append(f'<line class="marker" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        anchor = "end" if x > (left + right) / 2 else "start"
        body.append(_text(x + (-6 if anchor == "end" else 6), top + 12, marker[1], anchor, "value"))
    for line in series:
        places = [(across(x), down(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body.append(f'<polyline class="line {line.side}" points="{path}"/>')
        for (x, y), (value_x, value_y) in zip(places, line.points, strict=True):
            tip = f"<title>{html.escape(line.name)}: {value_x:.3g}, {value_y:.3g}</title>"
            body.append(f'<circle class="{line.side}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">{tip}</circle>')
    return _svg(width, height, title, body)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / span


def _ticks(low: float, high: float) -> list[float]:
    """Up to six round numbers from ``low`` to ``high``."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * share for share in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if span / (power * share) <= _TICKS)
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _x_axis(
    low: float, high: float, left: float, right: float, bottom: float, unit: str, top: float = 0
) -> Iterator[str]:
    scale = _scale(low, high, left, right)
    for value in _ticks(low, high):
        x = scale(value)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
        yield _text(x, bottom + 16, f"{value:g}{unit}", "middle", "tick")


def _label_width(labels: Sequence[str]) -> int:
    return min(30 + max(map(_columns, labels), default=0) * 7, 300)


def _columns(label: str) -> int:
    """How many letters wide a label is: those of Chinese, Japanese and Korean take the place of two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in label)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(width: int, height: float, title: str, body: Sequence[str]) -> str:
    inside = "".join(body)
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" role="img" aria-label="{html.escape(title)}">'
        f"{inside}</svg>"
    )
