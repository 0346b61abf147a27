"""How every chart looks: size, type, colours; and the helpers that keep texts apart."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display on a cluster
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart (jfly.uni-koeln.de/color); their
# yellow is too pale on white, a purple stands for it. The report's style has them as --c0 to --c7.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#6A51A3",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one fewer: 56 pairs before one comes again
MUTED = "#666666"
WIDTH_IN, HEIGHT_IN = 7.0, 4.6
LEAST_PT = 12  # a figure at half its width still has 6 pt
BAR_IN = 0.34  # height of a bar and its gap
MOST_POINTS = 400  # of a line; longer series are thinned
STYLE = {
    "figure.figsize": (WIDTH_IN, HEIGHT_IN),
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.labelsize": 13,
    "xtick.labelsize": LEAST_PT,
    "ytick.labelsize": LEAST_PT,
    "legend.fontsize": LEAST_PT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "axes.formatter.useoffset": False,
    "svg.fonttype": "none",  # text stays text: small, selectable, read aloud
    "svg.hashsalt": "scaling",  # the same chart is the same file
    "pdf.fonttype": 42,
    "legend.frameon": False,
    "lines.linewidth": 2,
}
IDEAL = {"color": MUTED, "linestyle": "--", "linewidth": 1.4}
GOOD = {"color": "#000000", "linestyle": ":", "linewidth": 1.6}


def new_figure(height_in: float | None = None) -> Figure:
    """Return an empty figure of the style's width; draw it inside rc_context(STYLE)."""
    width_in, usual_in = rcParams["figure.figsize"]
    figure = Figure(figsize=(width_in, height_in or usual_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def pick(number: int) -> tuple[str, str]:
    """Return colour and marker of a chart's line by its number."""
    return COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]


def thin(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list, list]:
    """Return at most about `most` points that keep every peak, without those that are missing.

    Of each stretch of equally many points the least and the greatest are kept, in their order,
    with the first and the last point of all.
    """
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    is_there = ~np.isnan(x + y)
    x, y = x[is_there], y[is_there]
    if len(x) > most:
        size = -(-2 * len(x) // most)
        starts = np.arange(0, len(x), size)
        stretches = np.pad(y, (0, len(starts) * size - len(y)), mode="edge").reshape(-1, size)
        low, high = stretches.argmin(axis=1) + starts, stretches.argmax(axis=1) + starts
        kept = np.unique(np.concatenate([[0], low, high, [len(x) - 1]]))
        x, y = x[kept], y[kept]
    return x.tolist(), y.tolist()


def show_rate(value: float) -> str:
    """Return a number with four digits that count and no exponent: 57,290 or 704.9 or 0.5."""
    text = f"{value:.4g}"
    return f"{float(text):,.0f}" if abs(float(text)) >= 1000 else text


def shorten_label(name: str, most: int = 36) -> str:
    """Return a name of at most `most` characters: its beginning and its end tell most."""
    if len(name) <= most:
        return name
    head = most * 2 // 3
    return f"{name[:head].rstrip()}…{name[head + 1 - most :].lstrip()}"


def label_bars(axes: Axes, names: Sequence[str]) -> None:
    """Name horizontal bars, the first one on top; the names leave the bars half of the width."""
    most = int(36 * (axes.figure.get_figwidth() / WIDTH_IN) ** 2)
    axes.set_yticks(range(len(names)), [shorten_label(name, most) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def add_legend(axes: Axes) -> None:
    """Put the legend below, the figure growing with it."""
    figure, (handles, labels) = axes.figure, axes.get_legend_handles_labels()
    entry_in = 0.6 + 0.095 * max(map(len, labels), default=0)  # the line's picture, and its text
    columns = min(max(int(figure.get_figwidth() / entry_in), 1), 3)
    figure.set_figheight(figure.get_figheight() + 0.26 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


_OPTIONAL = "_optional"  # the label of a text that may go; the underscore keeps it out of legends
# Offsets from a mark in points, the best first: above and below it, then beside it.
_PLACES = ((0, 9), (0, -20), (7, -5), (-7, 7), (7, -17), (-7, -19), (7, 7))
_GAP_PT = 3  # on each side of a text: two on one height are read as two


def annotate(axes: Axes, text: str, x: float, y: float, color: object) -> None:
    """Write a text beside a point; settle_texts() finds its place, or drops it without room."""
    how = {"color": color, "textcoords": "offset points", "label": _OPTIONAL}
    axes.annotate(text, (x, y), xytext=_PLACES[0], **how)


def settle_texts(figure: Figure) -> None:
    """Put each optional annotation where it lies on no other text, or remove it.

    The lowest point chooses first, a place that the fewest lines cross. A number that cannot be
    read is worth less than none: the table beside the chart has it.
    """
    renderer = figure.canvas.get_renderer()
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # settled: what follows moves nothing else
    gap = renderer.points_to_pixels(_GAP_PT)
    for axes in figure.axes:
        optional = [text for text in axes.texts if text.get_label() == _OPTIONAL]
        taken = [t.get_window_extent(renderer) for t in axes.texts if t not in optional]
        lines = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
        bounds = axes.get_window_extent(renderer)
        for text in sorted(optional, key=lambda text: text.xy[1]):
            places = []
            for x, y in _PLACES:
                how = {"position": (x, y), "ha": "left" if x > 0 else "right" if x else "center"}
                text.set(**how)
                box = text.get_window_extent(renderer)
                is_inside = all(bounds.contains(*corner) for corner in box.corners())
                wide = box.from_extents(box.x0 - gap, box.y0, box.x1 + gap, box.y1)
                if is_inside and not any(wide.overlaps(other) for other in taken):
                    crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
                    places.append((crossed, how, wide))
            if places:
                _, how, box = min(places, key=lambda found: found[0])
                text.set(**how)
                taken.append(box)
            else:
                text.remove()
