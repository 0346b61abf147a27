"""Pictures as inline SVG that takes the page's colours: the charts, and a run's small timelines."""

import io
import re
from html import escape
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator

from scaling.plots import Chart, draw
from scaling.plots.style import COLORS, MUTED, STYLE
from scaling.plots.timelines import Timeline

SIZE_IN = (5.6, 4.1)  # narrower than on paper: a phone shows its text at about 10 px
LONGEST_ALT_CHARS = 1500
# What a chart draws black or grey is the page's own text colour; its colours the page may brighten.
_COLORS = {
    **{color.lower(): f"var(--c{n})" for n, color in enumerate(COLORS[:-1])},
    "#000000": "currentColor",
    MUTED: "var(--muted)",
    "#b0b0b0": "var(--rule)",
    "#ffffff": "var(--page)",
}
_COLOR = re.compile(r"#[0-9a-f]{6}\b")
_ID = re.compile(r'(\bid="|href="#|url\(#)')
# The style is the same in every figure and stands in the page's own.
_METADATA = re.compile(r"<(metadata|style)\b[^>]*>.*?</\1>\s*", re.DOTALL)
_SIZE = re.compile(r' (?:width|height)="[^"]*"')
_FONT = re.compile(r"'DejaVu Sans', [^;\"]*")


class Figure(NamedTuple):
    """A chart for the page; `has_own_colors`: many lines in viridis, which need a white ground."""

    title: str
    caption: str
    svg: str
    has_own_colors: bool


def draw_figure(chart: Chart, key: str) -> Figure:
    """Return a chart as one SVG element with an alternative text and no script.

    key: what its ids begin with, so that no two pictures of a page share one.
    """
    text = io.StringIO()
    figure = draw(chart, SIZE_IN)
    with rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    head, body = _METADATA.sub("", svg[svg.index("<svg") :]).split(">", 1)
    body = _ID.sub(rf"\g<1>{key}-{chart.name}-", body)
    has_own_colors = bool(set(_COLOR.findall(body)) - set(_COLORS))
    if not has_own_colors:
        body = _COLOR.sub(lambda found: _COLORS[found[0]], body)
    body = _FONT.sub("sans-serif", body)
    alt = f"{chart.title}. {chart.alt}"
    alt = alt if len(alt) <= LONGEST_ALT_CHARS else alt[: LONGEST_ALT_CHARS - 1] + "…"
    head = f'{_SIZE.sub("", head)} role="img" aria-label="{escape(alt)}"'
    return Figure(chart.title, chart.caption, f"{head}>{body}".strip(), has_own_colors)


# ---- A run's timelines: written directly, since a page has hundreds of them --------------------

WIDTH, HEIGHT = 360, 150  # of the picture; a phone shows it as large as that
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 22
KEYS = 8  # colours that the page's style has


def draw_timeline(timeline: Timeline) -> str:
    """Return a timeline as one SVG element; its texts are escaped.

    The x axis is in minutes and the y axis in the timeline's unit, from 0 on.
    """
    minutes = max(max(xs) for xs, _ in timeline.lines.values())
    greatest = 100 if timeline.unit == "%" else max(max(ys) for _, ys in timeline.lines.values())
    ranges = "; ".join(
        f"{name} from {min(ys):.3g} to {max(ys):.3g}" for name, (_, ys) in timeline.lines.items()
    )
    alt = f"{timeline.title} over {minutes:.3g} minutes, in {timeline.unit}: {ranges}"
    right, ticks_y = max(minutes, 1e-3), choose_ticks(greatest, 4)
    top, bottom = ticks_y[-1], HEIGHT - BOTTOM
    x_scale, y_scale = (WIDTH - LEFT - RIGHT) / right, (bottom - TOP) / top
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">']
    for value in ticks_y:
        y = bottom - value * y_scale
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" class="y">{value:g}</text>')
    for value in choose_ticks(right, 5):
        if value <= right * (1 + 1e-9):
            x = LEFT + value * x_scale
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" class="x">{value:g}</text>')
    for number, (xs, ys) in enumerate(timeline.lines.values()):
        path = draw_path(LEFT + np.array(xs) * x_scale, bottom - np.minimum(ys, top) * y_scale)
        parts.append(f'<path class="line k{number % KEYS}" d="{path}"/>')
    return "".join([*parts, "</svg>"])


def draw_path(xs: np.ndarray, ys: np.ndarray) -> str:
    """Return SVG path data on a grid of half units; points on the grid's same spot are one.

    A point in the middle of a level stretch is left out: the line is the same without it.
    """
    x, y = np.round(2 * xs) / 2, np.round(2 * ys) / 2
    is_new, is_turn = np.ones(len(x), bool), np.ones(len(x), bool)
    is_new[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1])
    x, y, is_turn = x[is_new], y[is_new], is_turn[is_new]
    is_turn[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    spots = [f"{a:g} {b:g}" for a, b in zip(x[is_turn].tolist(), y[is_turn].tolist(), strict=True)]
    return "M" + "L".join(spots) + ("h1" if len(spots) == 1 else "")


def choose_ticks(greatest: float, count: int) -> np.ndarray:
    """Return about `count` numbers from 0 to `greatest` or beyond, 1, 2 or 5 x 10^n apart."""
    if greatest <= 0:
        return np.array([0.0, 1.0])
    return MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(0, greatest)
