"""How every chart looks: size, type, colours; and the helpers that keep texts apart."""

from collections.abc import Sequence

from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display on a cluster
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

# Okabe and Ito's colours without the yellow, which is too pale on white; colour-blind readers
# tell them apart (jfly.uni-koeln.de/color).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MUTED = "#666666"
WIDTH_IN, HEIGHT_IN = 7.0, 4.6
LEAST_PT = 12  # a figure at half its width still has 6 pt
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


def new_figure(height_in: float | None = None) -> Figure:
    """Return an empty figure of the style's width; draw it inside rc_context(STYLE)."""
    width_in, usual_in = rcParams["figure.figsize"]
    figure = Figure(figsize=(width_in, height_in or usual_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def pick_colors(count: int) -> list:
    """Return a colour for each of `count` lines: Okabe-Ito, else a walk through viridis."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    # Viridis ends in a yellow that white paper swallows; stop before it.
    return [colormaps["viridis"](0.92 * i / (count - 1)) for i in range(count)]


def add_legend(figure: Figure, axes: Axes, most_inside: int = 4) -> None:
    """Put the legend into the axes when it is short, else below, the figure growing with it."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    if len(labels) <= most_inside and longest <= 24:
        axes.legend(handles, labels)
        return
    entry_in = 0.6 + 0.095 * longest  # the line's picture, and the text at LEAST_PT
    columns = min(max(int(figure.get_figwidth() / entry_in), 1), 3)
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.26 * rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def annotate_points(
    axes: Axes, points: Sequence[tuple[float, float, str]], color: object = "black"
) -> None:
    """Write a text beside each point (x, y, text); settle_texts() drops those without room."""
    for x, y, text in points:
        axes.annotate(
            text, (x, y), color=color, textcoords="offset points", xytext=(7, -5), label=_OPTIONAL
        )  # fmt: skip


_OPTIONAL = "_optional"  # the label of a text that may go; the underscore keeps it out of legends
_PLACES = ((7, -5), (-7, 7), (0, 9), (7, -17), (-7, -19), (0, -20), (7, 7))


def settle_texts(figure: Figure) -> None:
    """Move or remove each optional annotation that would lie on another text or leave the axes.

    A place that no line crosses goes before one that a line does. A number that cannot be read
    is worth less than none: the table beside the chart has it.
    """
    renderer = figure.canvas.get_renderer()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # settled: what follows moves nothing else
    for axes in figure.axes:
        legend = axes.get_legend()
        taken = [legend.get_window_extent(renderer)] if legend else []
        taken += [text.get_window_extent(renderer) for text in axes.texts if _is_fixed(text)]
        lines = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
        bounds = axes.get_window_extent(renderer)
        for text in [text for text in axes.texts if not _is_fixed(text)]:
            box = _find_place(text, taken, bounds, renderer, lines)
            box = box or _find_place(text, taken, bounds, renderer, [])
            if box is None:
                text.remove()
            else:
                taken.append(box)


def _is_fixed(text: Text) -> bool:
    return text.get_label() != _OPTIONAL or not isinstance(text, Annotation)


def _find_place(
    text: Annotation, taken: list[Bbox], bounds: Bbox, renderer, lines: list[Path]
) -> Bbox | None:
    """Put the text at the first of _PLACES where it fits; return its box, None when at none."""
    for dx, dy in _PLACES:
        text.set_position((dx, dy))
        text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
        box = text.get_window_extent(renderer)
        is_inside = bounds.x0 <= box.x0 and box.x1 <= bounds.x1
        is_inside = is_inside and bounds.y0 <= box.y0 and box.y1 <= bounds.y1
        is_free = not any(box.overlaps(other) for other in taken)
        if is_inside and is_free and not any(p.intersects_bbox(box, filled=False) for p in lines):
            return box
    return None


def show_rate(value: float) -> str:
    """Return a number with four digits that count and no exponent: 57,290 or 704.9 or 0.5."""
    text = f"{value:.4g}"
    return f"{float(text):,.0f}" if abs(float(text)) >= 1000 else text
