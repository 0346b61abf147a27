"""Runs, their frames, and the study that says which of them may be compared.

from scaling.runs import find_runs, make_study
study = make_study(find_runs("experiments"))
study.scales[["label", "throughput_per_s", "speedup", "efficiency_pct"]]
"""

from importlib import import_module

# Name -> the module that has it. Imported when first asked for: finding runs needs no pandas.
_PUBLIC = {
    "Run": "run",
    "Spread": "spread",
    "State": "run",
    "Study": "study",
    "choose_workload": "select",
    "describe_no_run": "find",
    "describe_others": "find",
    "find_runs": "find",
    "make_frames": "frames",
    "make_metrics_studies": "study",
    "make_metrics_study": "study",
    "make_samples": "frames",
    "make_studies": "study",
    "make_study": "study",
    "order_in_time": "find",
    "read_workdir": "find",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
