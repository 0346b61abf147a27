"""Jobs in Slurm: submitted, kept in a ledger, followed, cancelled; the last one writes tables.

slurm <- ledger, tables_job <- submit.
"""

from submission.ledger import read_ledger, read_our_states, watch
from submission.slurm import (
    JobState,
    SlurmError,
    cancel_jobs,
    read_state,
    read_states,
    submit_script,
)
from submission.submit import announce, ask, cancel, check_jobs, count_gpu_hours, plan, submit
from submission.tables_job import keep_queue_options, plan_tables

__all__ = [
    "JobState",
    "SlurmError",
    "announce",
    "ask",
    "cancel",
    "cancel_jobs",
    "check_jobs",
    "count_gpu_hours",
    "keep_queue_options",
    "plan",
    "plan_tables",
    "read_ledger",
    "read_our_states",
    "read_state",
    "read_states",
    "submit",
    "submit_script",
    "watch",
]
