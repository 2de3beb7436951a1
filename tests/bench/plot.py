"""The results as one SVG picture: bars for what is one number, lines for what grows."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from bench import rows
from bench.contestants import CONTESTANTS, FLOOR, SINK
from bench.plan import Plan
from bench.report import number
from bench.results import Results

#: Told apart also by most of those who see colours differently (Okabe and Ito's).
COLOURS = ["#000000", "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#e69f00"]
COLOURS += ["#882255", "#999999"]
COLOUR = {who.name: colour for who, colour in zip(CONTESTANTS, COLOURS, strict=True)}
WIDTH, LEFT, RIGHT, TOP, HEIGHT = 480, 170, 60, 34, 200
Points = list[tuple[float, float]]


def draw(results: Results, names: list[str], plan: Plan) -> str:
    """The picture, as the text of its file."""
    single = [rows.sessions(load) for load in rows.LOADS]
    single += [rows.STARTTLS_QUIT, rows.STARTTLS, rows.MESSAGES, rows.SHORT, rows.LONG]
    single += [rows.calls(load) for load in rows.LOADS] + [rows.cpu(rows.MESSAGE)]
    panels = [_bars(row, results, names) for row in single]

    def growth(title: str, xs: tuple[int, ...], row: Callable[[int], str]) -> None:
        lines = {}
        for name in names:
            found = [(x, results.median(row(x), name)) for x in xs]
            lines[name] = [(float(x), y) for x, y in found if y]
        panels.append(_lines(title, lines))

    message = rows.MESSAGE
    growth(
        "one message, sessions/s by clients at a time",
        plan.at_a_time,
        lambda n: rows.sessions(message, n),
    )
    growth(
        "one message, CPU, ms, by clients at a time", plan.at_a_time, lambda n: rows.cpu(message, n)
    )
    for tls in (False, True):
        title = f"memory per connection, KB, by idle connections{' in TLS' if tls else ''}"
        growth(title, plan.connections, lambda n, tls=tls: rows.memory(n, tls))  # type: ignore[misc]

    width, height = 2 * WIDTH, math.ceil(len(panels) / 2) * (HEIGHT + TOP)
    placed = [
        f'<g transform="translate({i % 2 * WIDTH} {i // 2 * (HEIGHT + TOP)})">{panel}</g>'
        for i, panel in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" font-family="sans-serif" font-size="11">'
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(placed) + "</svg>\n"
    )


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>\n'


def _title(title: str) -> str:
    return _text(10, 20, title, 'font-weight="bold" font-size="13"')


def _bars(row: str, results: Results, names: list[str]) -> str:
    """Medians, with a whisker from the least to the most.

    Who does nothing of the job may be so far from all others that it would hide their
    differences: they set the scale, and its bar ends where they do.
    """
    parts = [_title(row)]
    others = [name for name in names if name not in (FLOOR, SINK)]
    most = max((max(results.get(row, name), default=0) for name in others), default=0) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    step = HEIGHT / (len(names) + 1)
    for i, name in enumerate(names):
        y = TOP + i * step
        middle = y + step * 0.4
        parts.append(_text(LEFT - 6, middle + 4, name, 'text-anchor="end"'))
        values = results.get(row, name)
        median = results.median(row, name)
        if median is None:
            parts.append(_text(LEFT + 4, middle + 4, "-"))
            continue
        low, high = (LEFT + min(value, most) * scale for value in (min(values), max(values)))
        width, thick = min(median, most) * scale, step * 0.8
        parts.append(
            f'<rect x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{thick:.1f}"'
            f' fill="{COLOUR[name]}"/>\n'
            f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="#f0e442" stroke-width="2"/>\n'
        )
        parts.append(_text(high + 5, middle + 4, number(median) + (" »" if median > most else "")))
    return "".join(parts)


def _lines(title: str, lines: dict[str, Points]) -> str:
    """Both axes logarithmic: a straight line is a power, and small and large can be seen."""
    points = [point for line in lines.values() for point in line]
    parts = [_title(title)]
    if not points:
        return "".join([*parts, _text(LEFT, TOP + 20, "-")])
    right, bottom = WIDTH - LEFT - 20, TOP + HEIGHT - 40
    x_at = _axis([x for x, _ in points], 50, right)
    y_at = _axis([y for _, y in points], bottom, TOP)
    for x in sorted({x for x, _ in points}):
        parts.append(_text(x_at(x), bottom + 16, f"{x:g}", 'text-anchor="middle"'))
    for y in _ticks([y for _, y in points]):
        parts.append(_text(44, y_at(y) + 4, f"{y:g}", 'text-anchor="end"'))
        parts.append(f'<path d="M50 {y_at(y):.1f}H{right}" stroke="#ddd"/>\n')
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOUR[name]
        path = "L".join(f"{x_at(x):.1f} {y_at(y):.1f}" for x, y in line)
        if path:
            parts.append(f'<path d="M{path}" stroke="{colour}" stroke-width="2" fill="none"/>\n')
        parts += [
            f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>\n'
            for x, y in line
        ]
        y = TOP + 10 + 18 * i
        parts.append(_text(right + 26, y + 4, name if line else f"({name})"))
        parts.append(f'<path d="M{right + 8} {y}h14" stroke="{colour}" stroke-width="3"/>\n')
    return "".join(parts)


def _axis(values: list[float], start: float, end: float) -> Callable[[float], float]:
    low, high = math.log(min(values)), math.log(max(values))
    span = (high - low) or 1.0
    return lambda value: start + (math.log(value) - low) / span * (end - start)


def _ticks(values: list[float]) -> list[float]:
    """1, 2 and 5 of each power of ten that are within; of many powers, 1 alone."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if high / low < 100 else (1,)
    return [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
