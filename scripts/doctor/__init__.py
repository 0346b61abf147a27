"""What a cluster is, whether it takes the jobs, and whether they work there.

slurm_text <- sources <- cluster <- report, partitions <- draft; cluster <- probe; verdicts <-
preflight.
"""

from doctor.cluster import Facts, detect
from doctor.draft import save_draft, write_draft
from doctor.preflight import (
    Cause,
    collect_files,
    describe_preflight,
    find_status,
    format_table,
    judge_preflight,
    prepare_preflight,
    run_preflights,
)
from doctor.probe import format_results, probe
from doctor.report import describe_cluster, report_cluster
from doctor.sources import read_folder, run_commands

__all__ = [
    "Cause",
    "Facts",
    "collect_files",
    "describe_cluster",
    "describe_preflight",
    "detect",
    "find_status",
    "format_results",
    "format_table",
    "judge_preflight",
    "prepare_preflight",
    "probe",
    "read_folder",
    "report_cluster",
    "run_commands",
    "run_preflights",
    "save_draft",
    "write_draft",
]
