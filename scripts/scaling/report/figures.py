"""Charts as inline SVG that takes the page's colours: light, dark or printed."""

import io
import re
from dataclasses import dataclass

from matplotlib import rc_context

from scaling.plots.charts import Chart, draw
from scaling.plots.style import COLORS, MUTED, STYLE

SIZE_IN = (5.6, 4.1)  # narrower than on paper: a phone shows its text at about 10 px
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


@dataclass(frozen=True)
class Figure:
    """A chart for the page; `has_own_colors`: many lines in viridis, which need a white ground."""

    name: str
    title: str
    caption: str
    svg: str
    has_own_colors: bool


def draw_figures(charts: list[Chart], prefix: str) -> tuple[list[Figure], list[str]]:
    """Return the charts that can be drawn, and a line for each other; `prefix` tells ids apart."""
    figures, left_out = [], []
    for chart in charts:
        if chart.reason:
            left_out.append(f"{chart.title}: {chart.reason}")
        else:
            figures.append(draw_figure(chart, f"{prefix}-{chart.name}-"))
    return figures, left_out


def draw_figure(chart: Chart, prefix: str) -> Figure:
    """Return a chart as one SVG element with unique ids, an alternative text and no script."""
    text = io.StringIO()
    figure = draw(chart, SIZE_IN)
    with rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = _METADATA.sub("", svg[svg.index("<svg") :])
    head, body = svg.split(">", 1)
    body = _ID.sub(rf"\g<1>{prefix}", body)
    own = bool(set(_COLOR.findall(body)) - set(_COLORS))
    if not own:
        body = _COLOR.sub(lambda found: _COLORS[found[0]], body)
    body = _FONT.sub("sans-serif", body)
    head = f'{_SIZE.sub("", head)} role="img" aria-label="{_attribute(chart)}"'
    return Figure(chart.name, chart.title, chart.caption, f"{head}>{body}".strip(), own)


def _attribute(chart: Chart) -> str:
    text = f"{chart.title}. {chart.alt}"
    text = text if len(text) <= 1500 else text[:1499] + "…"
    for character, entity in (("&", "&amp;"), ('"', "&quot;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, entity)
    return text
