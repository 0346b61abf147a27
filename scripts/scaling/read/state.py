"""The words for how a run stands."""

from enum import StrEnum


class State(StrEnum):
    COMPLETE = "complete"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    CANCELLED = "cancelled"
    RUNNING = "running"
    NEVER_STARTED = "never started"
