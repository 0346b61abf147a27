"""Charts: which are drawn from what, their numbers, and that no text lies on another."""

from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from scaling.plots import draw, list_charts
from scaling.plots_data import (
    Source,
    Study,
    part_series,
)
from scaling.plots_style import LEAST_PT

REPO = Path(__file__).resolve().parent.parent


# ---- Configurations made by hand -------------------------------------------------------------


def make_source(gpus: int, rates: list[float], nodes: int = 1, run_id: str = "1", **settings):
    count = len(rates)
    epochs = pd.DataFrame({
        "epoch": range(1, count + 1), "throughput_per_s": rates, "unit": "img/s",
        "epoch_s": [60.0] * count, "train_s": [55.0] * count,
        "train_loss": [5.0 - 0.1 * n for n in range(count)],
        "val_loss": [5.2 - 0.1 * n for n in range(count)],
        "val_accuracy": [0.01 * n for n in range(count)],
        "is_warmup": [n == 0 for n in range(count)],
    })  # fmt: skip
    ranks = pd.DataFrame({
        "rank": [0], "training_s": [55.0], "data_wait_s": [5.0], "copy_s": [1.0],
        "compute_s": [40.0], "optimizer_s": [4.0], "exposed_comm_s": [8.0], "is_warmup": [False],
    })  # fmt: skip
    known = {"batch_size_per_gpu": 512, "global_batch_size": 512 * gpus, "scaling": "weak"}
    return Source(
        "home", run_id, "tinyimagenet", nodes, gpus // nodes, gpus, {**known, **settings},
        epochs, ranks,
    )  # fmt: skip


def make_study(sources: list[Source]) -> Study:
    return Study("tinyimagenet", "img/s", tuple(part_series(sources)))


STUDIES = {
    "one configuration": lambda: [make_source(1, [700.0, 704.9, 705.0])],
    "one epoch": lambda: [make_source(1, [700.0]), make_source(2, [1300.0])],
    "seven scales": lambda: [
        make_source(gpus, [600.0 * gpus, 690.0 * gpus, 700.0 * gpus], nodes)
        for gpus, nodes in ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (8, 4), (16, 8))
    ],
    "64 scales": lambda: [make_source(n, [600.0 * n, 700.0 * n**0.95]) for n in range(1, 65)],
    "8 scales of 8 batches": lambda: [
        make_source(2**k, [600.0, 700.0 * 2**k * 0.97**k * b], batch_size_per_gpu=32 * b)
        for k in range(8)
        for b in range(1, 9)
    ],
    "64 settings": lambda: [
        make_source(4, [600.0, 700.0 + b], batch_size_per_gpu=b, model=f"a_model_named_{b}")
        for b in range(64)
    ],
    "32 settings of long names": lambda: [
        make_source(n, [600.0, 700.0 + b], strategy=f"fully sharded with offload {b}" * 2)
        for b in range(32)
        for n in (1, 8)
    ],
}


def list_texts(figure: Figure) -> list[tuple[str, object]]:
    """Every text that is drawn, with its box; the label of a tick outside of its axis is not."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    texts = [text for legend in figure.legends for text in legend.get_texts()] + figure.texts
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, axes._left_title, *axes.texts]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    texts += [tick.label1, tick.label2]
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


@pytest.mark.parametrize("name", STUDIES)
def test_no_text_lies_on_another_or_is_cut(name):
    study = make_study(STUDIES[name]())
    drawn = 0
    for chart in list_charts(study):
        if chart.reason:
            continue
        figure = draw(chart)
        texts, page = list_texts(figure), figure.bbox
        for text, box in texts:
            inside = page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1
            inside = inside and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
            assert inside, f"{chart.name}: {text!r} is cut"
        for (one, a), (other, b) in combinations(texts, 2):
            assert not a.shrunk(0.98, 0.9).overlaps(b), f"{chart.name}: {one!r} on {other!r}"
        sizes = [t.get_fontsize() for t in figure.findobj(Text) if t.get_text()]
        assert min(sizes) >= LEAST_PT, chart.name
        drawn += 1
    assert drawn >= 5
