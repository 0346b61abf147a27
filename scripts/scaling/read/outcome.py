"""Judge how a run stands from what it left behind; no accounting database is asked.

Whose word counts, in this order: RUN_COMPLETE.txt, the REQUEUE file, what sacct said where that was
kept, job_end.json, and the text of the log last: any program may print there what it likes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from scaling.read.causes import DIED, Cause
from scaling.read.contract import epochs_of
from scaling.read.job_log import Attempt, JobLog
from scaling.read.sacct import SacctJob
from scaling.read.symptoms import (
    CONSEQUENCE,
    DEATH,
    FIX,
    QUIET_DEATH,
    RESTART_LOOP,
    State,
    load_symptoms,
)

SILENT_S = 3600  # loggers write every 5 s; an hour without a word is not a running job
FRESH_S = 120


class Evidence(Protocol):
    """What judge() asks of a run. It asks for the log only when it must: reading it costs most."""

    has_record: bool  # run.json or RUN_COMPLETE.txt: a training of this project started
    run_complete: bool
    wants_requeue: bool
    settings: dict | None  # run.json
    results_dir: Path
    exit_status: int | None  # None: job_end.json was not written
    end_signal: str | None  # job_end.json's: what the job's own shell was told to end with
    log: JobLog | None
    attempt: Attempt | None  # the run's part of the log, which all restarts of a job share
    last_written_s: float | None  # seconds since 1970; None: nothing was written
    requeued_as: str | None
    is_queued: bool | None  # what Slurm says now; None: it could not be asked
    accounting: SacctJob | None  # what sacct said of the job, where that was kept
    resume_command: str | None  # what continues it; None without a checkpoint


@dataclass(frozen=True)
class Verdict:
    """A state, its reason in words (it starts with the state), the cause when one was found.

    advice: what to do next, "" when there is nothing to say.
    """

    state: State
    reason: str
    cause: Cause | None = None
    advice: str = ""


def judge(run: Evidence, now_s: float | None = None) -> Verdict:
    """Return how the run stands: complete, failed (and how), running, or never started.

    Complete: RUN_COMPLETE.txt is there, whatever happens after it. A run without this project's
    record (an older workshop's: only the log and a CSV) is complete when its log has every epoch
    and the job did not fail; the reason says so where nothing tells that it ended.
    """
    is_whole = run.run_complete or not (run.has_record or run.exit_status)
    if is_whole and (run.run_complete or (run.attempt and run.attempt.is_whole)):
        if not run.exit_status:
            return Verdict(State.COMPLETE, "complete")
        reason = f"complete: its job ended with exit status {run.exit_status} after that"
        cause = run.attempt.cause if run.attempt else None
        advice = "the results are whole: nothing needs to be run again"
        return Verdict(State.COMPLETE, reason, cause, advice)
    if run.requeued_as and not run.wants_requeue:
        return Verdict(State.CANCELLED, f"cancelled: requeued as {run.requeued_as}")
    if run.wants_requeue:  # Slurm's warning, SIGUSR1, came before the time limit
        return _judge_saved(run)
    cause, ending = _read_log(run)
    has_cause, told = cause is not None and not cause.outlived, _told_by_slurm(run)
    is_silent = not (has_cause or ending or run.has_record or run.exit_status)
    is_others = run.attempt is not None and run.attempt.is_of_others  # seldom says where it ends
    if (
        is_silent
        and told in (None, State.COMPLETE)
        and (is_others or (run.attempt and run.attempt.has_all_epochs))
    ):
        what = "its log is read" if is_others else "all epochs are done"
        end = "" if run.exit_status == 0 else f": {what}, and no end was recorded"
        return Verdict(State.COMPLETE, f"complete{end}")
    if run.exit_status is None and not (has_cause or ending or told):
        return _judge_open_end(run, time.time() if now_s is None else now_s)
    verdict = _judge_failure(run, cause, ending)
    if not run.resume_command or verdict.state is State.NEVER_STARTED:
        return verdict
    if verdict.state in (State.CANCELLED, State.TIMED_OUT):
        more = "ask for more time (--time), and " if verdict.state is State.TIMED_OUT else ""
        return replace(verdict, advice=f"{more}to continue it type: {run.resume_command}")
    more = f"{verdict.advice}; " if verdict.advice else ""
    return replace(verdict, advice=f"{more}then continue it: {run.resume_command}")


def _judge_saved(run: Evidence) -> Verdict:
    """Judge a run that saved because its time was nearly up, and wants to be queued again."""
    saved = "timed out: saved a checkpoint to go on"
    if run.requeued_as:
        return Verdict(State.TIMED_OUT, f"{saved}, requeued as {run.requeued_as}")
    command = run.resume_command
    advice = f"if the job is not queued again (squeue), type: {command}" if command else ""
    if not run.exit_status:
        return Verdict(State.TIMED_OUT, saved, advice=advice)
    cause, _ = _read_log(run)
    why = f": {cause.text}" if cause else ""
    reason = f"timed out: saved a checkpoint, then ended with exit status {run.exit_status}{why}"
    return Verdict(State.TIMED_OUT, reason, cause, advice or (cause.hint if cause else ""))


def _read_log(run: Evidence) -> tuple[Cause | None, Cause | None]:
    """Return the first cause that the log shows, and Slurm's word of the end where it is true.

    A job that Slurm ends is told so by a signal: its shell then ends with 128 and more.
    """
    if run.attempt is None:
        return None, None
    found = run.attempt.found
    is_denied = run.exit_status is not None and run.exit_status < 128 and not run.end_signal
    if found.ending and (is_denied or _told_by_slurm(run) not in (None, found.ending.state)):
        return _place(run, found.own), None
    return _place(run, found.cause), found.ending


def _told_by_slurm(run: Evidence) -> State | None:
    state = run.accounting.state if run.accounting else None
    return None if state is State.RUNNING else state


def _place(run: Evidence, cause: Cause | None) -> Cause | None:
    """Return the cause with the epoch in which a rank died, and with the rank that said nothing."""
    if (cause is None or cause.strength <= QUIET_DEATH) and (silent := _find_silent_rank(run)):
        return silent
    if cause is None or cause.rule != DIED:
        return cause
    epoch = _name_epoch(run, cause.rank)
    return replace(cause, text=f"{cause.text}, {epoch}") if epoch else cause


def _name_epoch(run: Evidence, rank: int | None) -> str:
    """Return the epoch that a rank was in, by its records or the log's last epoch line.

    "" for the log of another program, which may print no such line.
    """
    last = run.attempt.last if run.attempt else None
    epochs = epochs_of(run.settings) or (last.epochs if last else None)
    done = last.epoch if last else 0
    if rank is not None:
        records = run.results_dir.glob(f"rank{rank}_results_epoch*.json")
        found = [path.stem.rpartition("epoch")[2] for path in records]
        done = max([done, *(int(number) + 1 for number in found if number.isdecimal())])
    if not (done or run.has_record):
        return ""
    if epochs is not None and done >= epochs:
        return "after the last epoch"
    return f"in epoch {done + 1}" + (f" of {epochs}" if epochs else "")


def _find_silent_rank(run: Evidence) -> Cause | None:
    """Return the end of the only rank that blames no other: all others lost their peer to it."""
    settings, attempt = run.settings or {}, run.attempt
    size, per_node = settings.get("world_size"), settings.get("gpus_per_node")
    if not isinstance(size, int) or not attempt or not 0 < size <= len(attempt.found.echoing) + 1:
        return None
    silent = sorted(set(range(size)) - attempt.found.echoing)
    if len(silent) != 1 or size == 1:
        return None
    rank, hosts = silent[0], settings.get("hosts")
    node = rank // per_node if isinstance(per_node, int) and per_node > 0 else 0
    host = str(hosts[node]) if isinstance(hosts, list) and node < len(hosts) else ""
    where = f"rank {rank}" + (f" on {host}" if host else "")
    text = f"{where} ended and printed no error, {_name_epoch(run, rank)}: all others lost it"
    hint = "look for what ends it early: an exit with status 0, or a return, in the trainer"
    return Cause(text, hint, State.FAILED, DEATH, 0, rule=DIED, rank=rank, host=host)


def _judge_failure(run: Evidence, cause: Cause | None, ending: Cause | None) -> Verdict:
    """Judge a run that ended without RUN_COMPLETE.txt, or whose log says why it did."""
    told, status, signals = _told_by_slurm(run), run.exit_status, load_symptoms()[1]
    is_weak = cause is None or cause.strength is CONSEQUENCE
    is_own = cause is not None and not (is_weak and (status or 0) - 128 in signals)
    is_told = told not in (None, State.FAILED, State.COMPLETE)
    if cause is not None and cause.rule == RESTART_LOOP:
        return Verdict(State.FAILED, f"failed: {cause.text}", cause, cause.hint)
    if ending is not None:
        state, words, hint = ending.state, ending.text, (cause or ending).hint
    elif is_told and (is_weak or told is not cause.state):
        words = f"sacct says {run.accounting.slurm_state or 'so of a step'}"
        state, hint = told, cause.hint if cause else FIX
    elif run.end_signal:
        words = f"told to end (SIG{run.end_signal}): cancelled, preempted or out of time"
        state, hint = State.CANCELLED, _AGAIN
    elif is_own:
        return Verdict(cause.state, f"{cause.state}: {cause.text}", cause, cause.hint)
    else:
        state, hint = State.FAILED, _LOOK
        if status == 0 or (status is None and told is State.COMPLETE):
            words = "ended with exit status 0 but without RUN_COMPLETE.txt"
        elif status is None:
            words = f"sacct says {run.accounting.slurm_state}"
        elif signal := signals.get(status - 128):
            words, hint = f"exit status {status}: a process was ended by {signal.name}", signal.fix
            words += ", often because memory ran out" if signal.name == "SIGKILL" else ""
        else:
            words = f"exit status {status}, the log does not say why"
        words += "" if run.log else " (no log was found)"
    is_first = not is_weak and (ending is None or cause.text != ending.text)
    more = f"; first: {cause.text}" if is_first else f", {progress(run)}"
    return Verdict(state, f"{state}: {words}{more}", cause or ending, hint)


_AGAIN = "sbatch again, when it was not meant to end"
_LOOK = "look at the last lines of the log above"


def _judge_open_end(run: Evidence, now_s: float) -> Verdict:
    """Judge a run that has left neither an end nor a cause: most likely it still runs."""
    silent_s = None if run.last_written_s is None else now_s - run.last_written_s
    is_queued = True if silent_s is not None and silent_s <= FRESH_S else run.is_queued
    is_silent = silent_s is not None and silent_s > SILENT_S
    is_gone = is_queued is False
    if is_queued or not (is_gone or is_silent):
        is_told = is_queued or silent_s is None
        age = "" if is_told else f"; last written {_name_age(silent_s)} ago"
        return Verdict(State.RUNNING, f"running, {progress(run)}{age}")
    silence = "Slurm does not know it any more" if is_gone else ""
    if silent_s is not None:
        silence = "; ".join(filter(None, [silence, f"nothing written for {_name_age(silent_s)}"]))
    has_text = run.log is not None and run.log.counts.lines > 0
    if not run.has_record and not has_text:
        return Verdict(State.NEVER_STARTED, f"never started: its log is empty, {silence}")
    words = f"ended without a trace (killed outright, or its node died), {progress(run)}; {silence}"
    return Verdict(State.FAILED, f"failed: {words}", advice=run.resume_command or _AGAIN)


def _name_age(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 5400 else f"{max(seconds, 0) / 60:.0f} min"


def progress(run: Evidence) -> str:
    """Return `epoch 1 of 3 done`, or that there is none."""
    return run.attempt.describe_progress() if run.attempt else "no epoch line yet"
