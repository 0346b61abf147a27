"""The charts of a study, of one run's timelines, of a workshop, of one device against several."""

from common.lazy import export_lazily

__all__, __getattr__ = export_lazily(__name__, {
    "charts": "MAIN TIMELINES Chart draw draw_picture list_charts list_compared list_configs "
              "list_device_charts list_left_out list_run_charts list_timelines make_spread_chart "
              "save_charts",
    "drawing": "Timeline",
})  # fmt: skip
