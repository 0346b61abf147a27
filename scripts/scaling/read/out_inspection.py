"""What each line of a Slurm log is, and what its epoch lines hold, for inspect_log.py."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from scaling.read.cause_rules import Strength
from scaling.read.causes import Cause, CauseSearch
from scaling.read.columns import Column, describe_columns
from scaling.read.epoch_line import parse_label
from scaling.read.numbers import plain_number
from scaling.read.slurm_log import HALVES, TELLING, Attempt, Epoch, LogReader
from scaling.read.text import read_blocks, split_block

_EPOCH_UNITS = {
    "lr": "", "train_loss": "", "val_loss": "", "train_accuracy_pct": "%", "val_accuracy_pct": "%",
    "train_perplexity": "", "val_perplexity": "", "val_bleu": "",
}  # fmt: skip
# What a line is that holds no figure of ours, the first that fits: a rule, words of which it
# needs one (they are looked for first, being far faster to find), and its pattern.
_RULES = (
    ("NCCL", ("NCCL ",), re.compile(r"\bNCCL (?:INFO|WARN|version|TRACE)\b")),
    ("progress bar", ("%|", "it [", "["), re.compile(r"\d+%\||\d+it \[|\[[#=> .-]{5,40}\]")),
    (
        "Slurm or launcher",
        ("slurm", "srun", "sbatch", "torchrun", "*** "),
        re.compile(r"\b(?:slurmstepd|srun|sbatch|torchrun|slurm_script):|\*{3} "),
    ),
    (
        "traceback",
        ("Traceback", "File", "^", "Error", "Exception"),
        re.compile(r"Traceback \(most|^\s+File \"|^\s+\^+|^\w*(?:Error|Exception):"),
    ),
)
_LABELLED = frozenset(" [0123456789")
_TELLING = (*TELLING, *HALVES)
_MOST_RANKS = 100_000
_MIXED = (
    "several processes print epoch lines that differ, without a label: which is the job's is "
    "not known; run with srun --label, or print on rank 0 alone"
)


@dataclass
class OutInspection:
    """The counts of a log's lines, the ranks that label them, and what was read."""

    lines: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    ranks: set[int] = field(default_factory=set)
    columns: dict[str, dict] = field(default_factory=dict)
    details: dict = field(default_factory=dict)
    reason: str = ""


def describe_out(path: Path) -> OutInspection:
    """Return what each line of a log is, by count, and its attempts and cause."""
    reader, search, found = LogReader(path), CauseSearch(), OutInspection()
    for block in read_blocks(path):
        search.add_block(block)
        for number, (line, has_end) in enumerate(split_block(block), start=found.lines + 1):
            _sort_line(reader, found, line, number, has_end)
        found.lines = search.lines
    log, counts, cause = reader.log, reader.counts, search.choose()
    last = log.last_attempt
    is_whole = last.has_all_epochs and last.total_training_s is not None
    if cause and is_whole and cause.strength < Strength.ROOT:
        cause = None  # processes that part at the end complain of each other
    found.kept = sum(counts[what] for what in ("epoch", "total", "requeue"))
    if counts["torn"]:
        found.dropped["an epoch line that is cut or has other output in it"] = counts["torn"]
    if counts["other rank"]:
        found.ignored["line of another rank"] = counts["other rank"]
    found.columns = _describe_epochs(last.epochs)
    found.details = {
        "attempts": [_describe_attempt(attempt) for attempt in log.attempts],
        "forgotten_attempts": log.forgotten_attempts,
        "cause": cause and _describe_cause(cause),
    }
    found.reason = _MIXED if log.is_mixed else ""
    return found


def _sort_line(
    reader: LogReader, found: OutInspection, line: str, number: int, has_end: bool
) -> None:
    if line[:1] in _LABELLED and (label := parse_label(line)) and len(found.ranks) < _MOST_RANKS:
        found.ranks.add(label[0])  # of `3: [default0]:` srun's: it counts over the nodes
    may_tell = any(word in line for word in _TELLING)
    if not may_tell or not reader.take(line, number, has_end):
        found.ignored[_name_rule(line)] += 1


def _describe_cause(cause: Cause) -> dict:
    return {"text": cause.text, "state": cause.state, "line": cause.line_number, "hint": cause.hint}


def _name_rule(line: str) -> str:
    if not line or line.isspace():
        return "blank"
    for name, words, pattern in _RULES:
        if any(word in line for word in words) and pattern.search(line[:2000]):
            return name
    return "other output"


def _describe_attempt(attempt: Attempt) -> dict:
    last = attempt.last
    return {
        "epochs": [epoch.epoch for epoch in attempt.epochs],
        "of_epochs": last.epochs if last else None,
        "has_all_epochs": attempt.has_all_epochs,
        "total_training_s": _plain(attempt.total_training_s),
        "last_line": last and {"number": last.line_number, "text": last.text},
    }


def _plain(value: float | None) -> float | None:
    return None if value is None else plain_number(value)


def _describe_epochs(epochs: list[Epoch]) -> dict[str, dict]:
    """Return the columns of the last attempt's epoch lines."""
    unit = epochs[-1].unit if epochs else ""
    columns = [Column(name, of) for name, of in _EPOCH_UNITS.items()]
    columns.append(Column("throughput_per_s", unit))
    for epoch in epochs:
        for column in columns:
            value = getattr(epoch, column.name)
            if value is not None:
                column.add(value)
    return describe_columns(columns)
