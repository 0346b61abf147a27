"""Runs, their frames, and the study that says which of them may be compared.

from scaling.runs import find_runs, make_study
study = make_study(find_runs("experiments"))
study.scales[["label", "throughput_per_s", "speedup", "efficiency_pct"]]
"""

from common.lazy import export_lazily

# Finding runs needs no pandas, which takes most of a command's start.
__all__, __getattr__ = export_lazily(__name__, {
    "compare": "Spread",
    "find": "Participant choose_workload describe_others find_participants find_runs order_in_time "
            "read_workdir",
    "frames": "make_frames make_samples",
    "run": "Run State",
    "study": "Study make_metrics_studies make_metrics_study make_studies make_study",
})  # fmt: skip
