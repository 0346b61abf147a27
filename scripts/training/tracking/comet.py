"""Comet (https://www.comet.com): an experiment at Comet, or an archive in COMET_OFFLINE_DIRECTORY.

The key is COMET_API_KEY of the environment, or what comet_ml finds in the user's own files.
"""

import os
from argparse import Namespace
from pathlib import Path

from training.tracking import can_reach, choose_tags, list_settings, name_experiment, say

# What comet_ml reads from the environment; a user's own setting is left alone.
QUIET = {
    # Its errors come with tracebacks, and one about a wrong key shows the key. They are told here.
    "COMET_LOGGING_CONSOLE": "CRITICAL",
    # Only what is logged here: no patching of PyTorch, no copy of code, environment or output.
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_TIMEOUT_CLEANING": "30",  # seconds; an hour otherwise, and three for files
    "COMET_TIMEOUT_UPLOAD": "30",
}


class Tracker:
    """One experiment."""

    def __init__(self, args: Namespace, run: dict):
        self.experiment = log = open_experiment(args.tracker_project)
        log.log_parameters(list_settings(run))
        for group in ("versions", "slurm", "dataset"):
            log.log_others({f"{group}_{name}": value for name, value in run[group].items()})
        log.log_other("hosts", " ".join(run["hosts"]))
        log.set_name(name_experiment(run))
        log.add_tags(choose_tags(run))

    def log(self, figures: dict[str, float], step: int, epoch: int) -> None:
        self.experiment.log_metrics(figures, step=step, epoch=epoch)

    def end(self) -> str:
        self.experiment.end()
        folder = getattr(self.experiment, "offline_directory", None)
        if not folder:
            return ""
        return f"kept for later: comet upload {Path(folder) / self.experiment.get_key()}.zip"


def open_experiment(project: str):
    """Open an experiment at Comet, or in COMET_OFFLINE_DIRECTORY when Comet is out of reach."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import comet_ml

    what = {
        "project_name": project, "log_code": False, "log_graph": False, "parse_args": False,
        "auto_param_logging": False, "auto_metric_logging": False, "auto_output_logging": False,
        "log_git_metadata": False, "log_git_patch": False, "display_summary_level": 0,
    }  # fmt: skip
    folder = os.environ.get("COMET_OFFLINE_DIRECTORY")
    if can_reach(os.environ.get("COMET_URL_OVERRIDE", "https://www.comet.com")):
        experiment = comet_ml.Experiment(**what)
        if experiment.alive:  # False, without an exception, when Comet did not answer
            say("comet", f"{experiment.get_name() or 'experiment'} at {experiment.url}")
            return experiment
    if not folder:
        raise ConnectionError(
            "no way to Comet from this node; set COMET_OFFLINE_DIRECTORY to keep it for upload"
        )
    return comet_ml.OfflineExperiment(offline_directory=folder, **what)
