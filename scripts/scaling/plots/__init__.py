"""The charts of a study, of one run's timelines, and of one device against several."""

from scaling.plots.charts import (
    MAIN,
    Chart,
    draw,
    list_charts,
    list_device_charts,
    list_run_charts,
    save_charts,
)
from scaling.plots.participant_charts import make_spread_chart
from scaling.plots.scaling_charts import list_left_out

__all__ = [
    "MAIN", "Chart", "draw", "list_charts", "list_device_charts", "list_left_out",
    "list_run_charts", "make_spread_chart", "save_charts",
]  # fmt: skip
