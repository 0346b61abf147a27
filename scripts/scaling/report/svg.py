"""Small charts of a run's timelines as SVG, written directly: a page has hundreds of them."""

from html import escape
from math import floor, log10

from scaling.plots.timelines import Timeline

WIDTH, HEIGHT = 360, 150  # of the picture; a phone shows it as large as that
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 22
KEYS = 8  # colours that the page's style has


def draw_svg(timeline: Timeline) -> str:
    """Return a timeline as one SVG element; its texts are escaped.

    The x axis is in minutes and the y axis in the timeline's unit, from 0 on.
    """
    xs = [x for line in timeline.lines.values() for x in line[0]]
    ys = [y for line in timeline.lines.values() for y in line[1]]
    top, step_y = choose_ticks(100.0 if timeline.unit == "%" else max(ys), 4)
    right, step_x = max(max(xs), 1e-3), choose_ticks(max(max(xs), 1e-3), 5)[1]
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + across * x / right, TOP + down * (1 - min(y / top, 1))

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(describe(timeline))}">'
    ]
    for value in _count_up(step_y, top):
        y = place(0, value)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" class="y">{value:g}</text>')
    for value in _count_up(step_x, right):
        x = place(value, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" class="x">{value:g}</text>')
    for number, (line_xs, line_ys) in enumerate(timeline.lines.values()):
        points = [place(x, y) for x, y in zip(line_xs, line_ys, strict=True)]
        parts.append(f'<path class="line k{number % KEYS}" d="{draw_path(points)}"/>')
    return "".join([*parts, "</svg>"])


def draw_path(points: list[tuple[float, float]]) -> str:
    """Return SVG path data on a grid of half units; points on the grid's same spot are one.

    A point in the middle of a level stretch is left out: the line is the same without it.
    """
    spots: list[tuple[float, float]] = []
    for x, y in points:
        spot = (round(2 * x) / 2, round(2 * y) / 2)
        if spots and spots[-1] == spot:
            continue
        if len(spots) > 1 and spots[-1][1] == spots[-2][1] == spot[1]:
            spots[-1] = spot
        else:
            spots.append(spot)
    if len(spots) == 1:
        return f"M{spots[0][0]:g} {spots[0][1]:g}h1"
    return "".join(f"{'L' if at else 'M'}{x:g} {y:g}" for at, (x, y) in enumerate(spots))


def describe(timeline: Timeline) -> str:
    """Return what a timeline shows, for readers who do not see it."""
    found = [
        f"{name} from {min(ys):.3g} to {max(ys):.3g}" for name, (_, ys) in timeline.lines.items()
    ]
    minutes = max(x for xs, _ in timeline.lines.values() for x in xs)
    return f"{timeline.title} over {minutes:.3g} minutes, in {timeline.unit}: {'; '.join(found)}"


def choose_ticks(greatest: float, count: int) -> tuple[float, float]:
    """Return a round end of an axis from 0, and the step between ticks: 1, 2 or 5 x 10^n."""
    if greatest <= 0:
        return 1.0, 1.0
    rough = greatest / count
    power = 10.0 ** floor(log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * (1 - 1e-9))
    steps = -(-greatest // step)
    return steps * step, step


def _count_up(step: float, end: float) -> list[float]:
    return [n * step for n in range(int(end / step + 1e-9) + 1)]
