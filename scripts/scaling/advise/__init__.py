"""How many GPUs are worth asking for: measured, fitted by a scaling law, or predicted."""

from common.lazy import export_lazily

__all__, __getattr__ = export_lazily(__name__, {
    "advice": "DEFAULT_TARGET_PCT estimate_s find_epoch find_largest_worth list_advice "
              "make_memory_advice",
    "laws": "Link find_step_s make_prediction",
})  # fmt: skip
