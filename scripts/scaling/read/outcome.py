"""Judge how a run stands from what it left behind; no accounting database is asked."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scaling.read.causes import Cause, State, Strength
from scaling.read.job_log import Attempt, JobLog
from scaling.read.sacct import SacctJob

SILENT_S = 3600  # loggers write every 5 s; an hour without a word is not a running job

# What bash reports for a command that a signal ended is 128 + the signal's number.
_SIGNALS = {
    130: (State.CANCELLED, "interrupted (SIGINT)"),
    137: (State.FAILED, "killed (SIGKILL), often because memory ran out"),
    139: (State.FAILED, "crashed (SIGSEGV)"),
    143: (State.CANCELLED, "told to end (SIGTERM): cancelled, preempted or out of time"),
}


@dataclass(frozen=True)
class Evidence:
    """What is known of a run.

    judge() asks for `log` and `attempt` only when it needs them, so any object with these
    attributes serves: one that reads its log when it is first asked need not read most logs.
    """

    has_record: bool  # run.json or RUN_COMPLETE.txt: a training of this project started
    run_complete: bool
    wants_requeue: bool
    exit_status: int | None  # None: job_end.json was not written
    log: JobLog | None
    attempt: Attempt | None  # the run's part of the log, which all restarts of a job share
    last_written_s: float | None  # seconds since 1970; None: nothing was written
    requeued_as: str | None
    accounting: SacctJob | None = None  # what sacct said of the job, where that was kept


@dataclass(frozen=True)
class Verdict:
    """A state, its reason in words (it starts with the state), the cause when one was found."""

    state: State
    reason: str
    cause: Cause | None = None


def judge(evidence: Evidence, now_s: float | None = None) -> Verdict:
    """Return how the run stands: complete, failed (and how), running, or never started.

    Complete: RUN_COMPLETE.txt and no exit status but 0. A run without this project's record
    (an older workshop's: only the log and a CSV) is complete when its log has every epoch; the
    reason says so where nothing tells that it ended.
    """
    complete = evidence.run_complete or (not evidence.has_record and _log_is_whole(evidence))
    if complete and not evidence.exit_status:
        return Verdict(State.COMPLETE, "complete")
    if evidence.wants_requeue:  # Slurm's warning, SIGUSR1, came before the time limit
        then = f", requeued as {evidence.requeued_as}" if evidence.requeued_as else ""
        return Verdict(State.TIMED_OUT, f"timed out: saved a checkpoint to go on{then}")
    if evidence.requeued_as:
        return Verdict(State.CANCELLED, f"cancelled: requeued as {evidence.requeued_as}")
    log = evidence.log
    cause, ending = (log.cause, log.ending) if log else (None, None)
    if cause is None and _has_all_epochs(evidence):
        if evidence.exit_status == 0:
            return Verdict(State.COMPLETE, "complete")
        what = "its log is read" if evidence.attempt.is_of_others else "all epochs are done"
        return Verdict(State.COMPLETE, f"complete: {what}, and no end was recorded")
    if evidence.exit_status == 0:
        return _judge_silent_end(evidence)
    if cause is None and (verdict := _judge_by_accounting(evidence)):
        return verdict
    if cause is None and evidence.exit_status is None:
        return _judge_open_end(evidence, time.time() if now_s is None else now_s)
    return _judge_failure(evidence, cause, ending)


def _log_is_whole(evidence: Evidence) -> bool:
    return bool(evidence.attempt and evidence.attempt.is_whole)


def _has_all_epochs(evidence: Evidence) -> bool:
    """Whether a log alone has every epoch, and nothing says that the job failed.

    Of a log that a format describes that is whatever stands in it: few say where they end.
    """
    told = evidence.accounting.state if evidence.accounting else None
    if evidence.has_record or evidence.exit_status or told not in (
        None, State.COMPLETE, State.RUNNING
    ):  # fmt: skip
        return False
    attempt = evidence.attempt
    return bool(attempt and (attempt.has_all_epochs or attempt.is_of_others))


def _judge_silent_end(evidence: Evidence) -> Verdict:
    return Verdict(
        State.FAILED,
        f"failed: ended with exit status 0 but without RUN_COMPLETE.txt, {progress(evidence)}",
    )


def _judge_by_accounting(evidence: Evidence) -> Verdict | None:
    """Judge by sacct's word, None without one; it cannot make a run complete that is not."""
    job = evidence.accounting
    state = job.state if job else None
    if state is None or state is State.RUNNING:
        return None
    if state is State.COMPLETE:
        return _judge_silent_end(evidence)
    words = f"sacct says {job.slurm_state or 'so of a step'}"
    return Verdict(state, f"{state}: {words}, {progress(evidence)}")


def _judge_open_end(evidence: Evidence, now_s: float) -> Verdict:
    """Judge a run that has left neither an end nor a cause: most likely it still runs."""
    silent_s = None if evidence.last_written_s is None else now_s - evidence.last_written_s
    if silent_s is None or silent_s <= SILENT_S:
        return Verdict(State.RUNNING, f"running, {progress(evidence)}")
    silence = f"nothing written for {silent_s / 3600:.0f} h"
    has_text = evidence.log is not None and evidence.log.counts.lines > 0
    if not evidence.has_record and not has_text:
        return Verdict(State.NEVER_STARTED, f"never started: its log is empty, {silence}")
    return Verdict(
        State.RUNNING,
        f"running, {progress(evidence)}; {silence}: perhaps killed without a trace",
    )


def _judge_failure(evidence: Evidence, cause: Cause | None, ending: Cause | None) -> Verdict:
    status = evidence.exit_status
    if ending is not None and cause is not None and cause.text != ending.text:
        return Verdict(ending.state, f"{ending.state}: {ending.text}; first: {cause.text}", cause)
    is_echo = cause is None or cause.strength is Strength.CONSEQUENCE
    if status is not None and is_echo and (status in _SIGNALS or cause is None):
        state, words = _SIGNALS.get(status, (State.FAILED, "the log does not say why"))
        words = words if evidence.log else f"{words} (no log was found)"
        reason = f"{state}: exit status {status}, {words}, {progress(evidence)}"
        return Verdict(state, reason, cause)
    done = f", {progress(evidence)}" if ending else ""
    return Verdict(cause.state, f"{cause.state}: {cause.text}{done}", cause)


def progress(evidence: Evidence) -> str:
    """Return `epoch 1 of 3 done`, or that there is none."""
    return evidence.attempt.describe_progress() if evidence.attempt else "no epoch line yet"
