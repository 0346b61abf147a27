"""Jobs in Slurm: submitted, kept in a ledger, followed, cancelled; the last one writes tables.

options <- slurm <- ledger, tables_job <- freeze <- submit; memory.
"""

from submission.freeze import prepare_sources
from submission.ledger import read_ledger, read_our_states, watch
from submission.memory import check_memory
from submission.options import (
    keep_queue_options,
    list_overrides,
    parse_options,
    read_directives,
    split_head,
)
from submission.slurm import (
    JobState,
    SlurmError,
    call,
    cancel_jobs,
    number_of,
    read_state,
    read_states,
    submit_script,
    write_cancel,
)
from submission.submit import (
    announce,
    ask,
    cancel,
    check_jobs,
    clean_sources,
    count_gpu_hours,
    plan,
    submit,
)
from submission.tables_job import plan_tables

__all__ = [
    "JobState",
    "SlurmError",
    "announce",
    "ask",
    "call",
    "cancel",
    "cancel_jobs",
    "check_jobs",
    "check_memory",
    "clean_sources",
    "count_gpu_hours",
    "keep_queue_options",
    "list_overrides",
    "number_of",
    "parse_options",
    "plan",
    "plan_tables",
    "prepare_sources",
    "read_directives",
    "read_ledger",
    "read_our_states",
    "read_state",
    "read_states",
    "split_head",
    "submit",
    "submit_script",
    "watch",
    "write_cancel",
]
