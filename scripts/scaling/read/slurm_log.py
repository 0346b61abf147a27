"""Read a job's Slurm log: the epoch lines and totals of each attempt that it holds.

The log is a human's: the epoch line stands among NCCL's lines, tracebacks and Slurm's own
words, may carry a launcher's label or colours, and a requeued job appends to it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scaling.read.causes import Cause, CauseSearch, find_cause
from scaling.read.epoch_line import (
    Epoch,
    is_of_others,
    match_plain_line,
    parse_epoch_line,
    parse_epoch_lines,
    parse_label,
)
from scaling.read.numbers import NUMBER, LoggedNumber
from scaling.read.text import LONGEST_LINE_CHARS, clean_line, find_lines, read_blocks

__all__ = [
    "Attempt",
    "Cause",
    "Epoch",
    "LogReader",
    "SlurmOut",
    "find_cause",
    "parse_epoch_line",
    "read_log_evidence",
    "read_slurm_out",
]

_TOTALS = {
    "total_training_s": re.compile(rf"Total training time: ({NUMBER}) s\b"),
    "best_val_loss": re.compile(rf"Best validation loss: ({NUMBER})\s*$"),
    "best_val_accuracy_pct": re.compile(rf"Best validation accuracy: ({NUMBER})%"),
    "best_val_perplexity": re.compile(rf"Best validation perplexity: ({NUMBER})\s*$"),
    "best_val_bleu": re.compile(rf"Best BLEU: ({NUMBER})\s*$"),
}
_REQUEUED = re.compile(r"DUE TO (?:PREEMPTION|JOB REQUEUE|NODE FAILURE)", re.IGNORECASE)
# No other line is read. An escape: a colour may part the words.
TELLING = ("Epoch [", "Total training", "Best validation", "Best BLEU", "DUE TO ", "\x1b")
# Kept of a log, so that its size does not matter; of more the oldest are let go of.
MOST_ATTEMPTS, MOST_EPOCHS, MOST_REMEMBERED = 1000, 20_000, 1000


HALVES = ("| Loss (train", "| Throughput: ")  # of an epoch line that another line was written into


@dataclass
class Attempt:
    """One run of the training in the log: its epochs by number, and what it printed last.

    `repeated` are the epochs that came twice in a row with other figures.
    """

    by_number: dict[int, Epoch] = field(default_factory=dict)
    total_training_s: LoggedNumber | None = None
    best_val_loss: LoggedNumber | None = None
    best_val_accuracy_pct: LoggedNumber | None = None
    best_val_perplexity: LoggedNumber | None = None
    best_val_bleu: LoggedNumber | None = None
    newest: Epoch | None = None  # the last line that was read
    repeated: set[int] = field(default_factory=set)

    @property
    def epochs(self) -> list[Epoch]:
        return [self.by_number[number] for number in sorted(self.by_number)]

    @property
    def last(self) -> Epoch | None:
        return self.by_number[max(self.by_number)] if self.by_number else None

    @property
    def has_all_epochs(self) -> bool:
        last = self.last
        return last is not None and len(self.by_number) == last.epochs == last.epoch


@dataclass
class SlurmOut:
    """A Slurm log: its attempts in order (at least one), and lines that read like none.

    `unreadable` are the line numbers that speak of an epoch but do not hold a whole line:
    cut, or with another process' words in the middle (of many the first thousand).
    `is_mixed`: several processes without a label print epoch lines that differ, so whose
    figures are the job's is not known.
    """

    path: Path
    attempts: list[Attempt] = field(default_factory=lambda: [Attempt()])
    lines: int = 0
    unreadable: list[int] = field(default_factory=list)
    forgotten_attempts: int = 0

    @property
    def last_attempt(self) -> Attempt:
        return self.attempts[-1]

    @property
    def is_mixed(self) -> bool:
        last, before = self.last_attempt, self.attempts[-2:-1]
        later = set(last.by_number) - {1}
        return bool(later and later <= last.repeated and before and set(before[0].by_number) == {1})


def read_slurm_out(path: Path) -> SlurmOut:
    """Return what the training printed, attempt by attempt.

    A new attempt starts where Slurm says that it requeued the job, or where the epoch
    number goes back to 1; one that resumes at a later epoch inherits the epochs before it.
    Of labelled ranks (srun --label, torchrun --tee) the lowest one's lines count.
    Raises UserError when the file cannot be read.
    """
    reader = LogReader(path)
    log = reader.log
    for block in read_blocks(path):
        number, counted = log.lines + 1, 0
        for start in find_lines(block, TELLING):
            number += block.count("\n", counted, start)
            counted = start
            epoch = match_plain_line(block, start, number)
            if epoch is not None:
                reader.take_epochs((epoch,), ())
                continue
            end = block.find("\n", start)
            line = block[start : min(len(block) if end < 0 else end, start + LONGEST_LINE_CHARS)]
            reader.take(line, number, end >= 0)
        log.lines += block.count("\n") + (not block.endswith("\n"))
    return log


class LogReader:
    """Takes the lines of a Slurm log in; `log` is what they said so far."""

    def __init__(self, path: Path):
        self.log = SlurmOut(path if isinstance(path, Path) else Path(path))
        self.requeued = False
        self.label: tuple[int, ...] | None = None  # the lowest one that had an epoch line
        self.counts: Counter[str] = Counter()  # of lines, by what they are

    def take(self, line: str, number: int, has_end: bool) -> str:
        """Take one line in; return what it is: epoch, total, requeue, other rank, torn or ''."""
        what = self._take(line, number, has_end)
        self.counts[what] += 1
        return what

    def _take(self, line: str, number: int, has_end: bool) -> str:
        if "\x1b" in line:
            line = clean_line(line)
        if "Epoch [" in line:
            epochs = parse_epoch_lines(line, number)
            if not epochs and is_of_others(line):
                return ""
            if not epochs:
                if len(self.log.unreadable) < MOST_REMEMBERED:
                    self.log.unreadable.append(number)
                return "torn"
            return self.take_epochs(epochs, parse_label(line))
        if "Total training" in line or "Best " in line:
            return self._take_total(clean_line(line), has_end, parse_label(line))
        if "DUE TO " in line and _REQUEUED.search(line):
            self.requeued = True
            return "requeue"
        return "torn" if any(word in line for word in HALVES) else ""

    def take_epochs(self, epochs: Sequence[Epoch], label: tuple[int, ...]) -> str:
        """Take in the epoch lines of one line, of the ranks that its label names."""
        if self.label is None or label < self.label:
            if self.label is not None:
                before = self.counts.pop("epoch", 0) + self.counts.pop("total", 0)
                self.counts["other rank"] += before
                self.log.attempts = [Attempt()]
            self.label = label
        if label > self.label:
            return "other rank"
        for epoch in epochs:
            self._take_epoch(epoch)
        return "epoch"

    def _take_epoch(self, epoch: Epoch) -> None:
        log = self.log
        attempt = log.attempts[-1]
        if self.requeued or _starts_again(attempt, epoch):
            attempt = _follow(attempt, epoch)
            log.attempts.append(attempt)
            self.requeued = False
            if len(log.attempts) > MOST_ATTEMPTS:
                del log.attempts[0]
                log.forgotten_attempts += 1
        before = attempt.newest
        if before and before.epoch == epoch.epoch and before.text != epoch.text:
            attempt.repeated.add(epoch.epoch)
        attempt.by_number[epoch.epoch] = attempt.newest = epoch
        if len(attempt.by_number) > MOST_EPOCHS:
            del attempt.by_number[next(iter(attempt.by_number))]

    def _take_total(self, line: str, has_end: bool, label: tuple[int, ...]) -> str:
        if self.label is not None and label > self.label:
            return "other rank"
        for name, pattern in _TOTALS.items():
            match = pattern.search(line)
            # A figure that no unit closes may be cut where the file ends.
            if match and (has_end or not pattern.pattern.endswith("$")):
                setattr(self.log.last_attempt, name, LoggedNumber(match[1]))
                return "total"
        return ""


def _starts_again(attempt: Attempt, epoch: Epoch) -> bool:
    last = attempt.newest
    if last is None or (epoch.epoch != 1 and epoch.epochs == last.epochs):
        return False
    before = attempt.by_number.get(epoch.epoch)
    is_copy = before is not None and before.text == epoch.text  # `--tee` prints to two places
    return not is_copy or attempt.total_training_s is not None


def _follow(attempt: Attempt, epoch: Epoch) -> Attempt:
    """Return the attempt after this one, with the epochs that it did not have to repeat."""
    last = attempt.last
    if epoch.epoch == 1 or last is None or last.epochs != epoch.epochs:
        return Attempt()
    return Attempt({n: done for n, done in attempt.by_number.items() if n < epoch.epoch})


def read_log_evidence(path: Path) -> tuple[Cause | None, Cause | None]:
    """Return (first cause, Slurm's word of the end) of a log; see causes.read_evidence."""
    search = CauseSearch()
    for block in read_blocks(path):
        search.add_block(block)
    return search.choose(), search.ending
