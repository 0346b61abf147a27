"""Read a job's Slurm log: the epoch lines and totals of each attempt that it holds.

The log is a human's: the epoch line stands among NCCL's lines, tracebacks and Slurm's own
words, may carry a launcher's label or colours, and a requeued job appends to it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scaling.causes import Cause, find_cause, read_evidence
from scaling.numbers import NUMBER, LoggedNumber
from scaling.text import clean_line, read_lines

__all__ = [
    "Attempt",
    "Cause",
    "Epoch",
    "SlurmOut",
    "find_cause",
    "parse_epoch_line",
    "read_log_evidence",
    "read_slurm_out",
]

# The unit closes the line: without it the last number may be cut, and is not taken.
_EPOCH = re.compile(
    rf"Epoch \[(?P<epoch>\d{{1,9}})/(?P<epochs>\d{{1,9}})\] LR: (?P<lr>{NUMBER})"
    rf" \| Loss \(train, val\): (?P<train_loss>{NUMBER}), (?P<val_loss>{NUMBER})"
    rf"(?: \| (?P<scores>[^|]*))? \| Throughput: (?P<throughput>{NUMBER}) "
    r"(?P<unit>(?:img|tokens|samples)/s)"
)
_SCORES = {
    ("train_accuracy_pct", "val_accuracy_pct"): (
        rf"Accuracy \(train, val\): ({NUMBER})%, ({NUMBER})%"
    ),
    ("train_perplexity", "val_perplexity"): rf"Perplexity \(train, val\): ({NUMBER}), ({NUMBER})",
    ("val_bleu",): rf"BLEU \(val\): ({NUMBER})",
}
_TOTALS = {
    "total_training_s": re.compile(rf"Total training time: ({NUMBER}) s\b"),
    "best_val_loss": re.compile(rf"Best validation loss: ({NUMBER})\s*$"),
    "best_val_accuracy_pct": re.compile(rf"Best validation accuracy: ({NUMBER})%"),
}
_REQUEUED = re.compile(r"DUE TO (?:PREEMPTION|JOB REQUEUE|NODE FAILURE)", re.IGNORECASE)


@dataclass(frozen=True)
class Epoch:
    """One epoch line. Losses are means over samples, accuracies in %, throughput is global.

    Numbers keep the digits of the log in their `.text`. Scores that the line does not hold
    are None. `text` is the line without what stood around it; `line_number` counts from 1.
    """

    epoch: int
    epochs: int
    lr: LoggedNumber
    train_loss: LoggedNumber
    val_loss: LoggedNumber
    throughput_per_s: LoggedNumber
    unit: str
    text: str
    line_number: int
    train_accuracy_pct: LoggedNumber | None = None
    val_accuracy_pct: LoggedNumber | None = None
    train_perplexity: LoggedNumber | None = None
    val_perplexity: LoggedNumber | None = None
    val_bleu: LoggedNumber | None = None


@dataclass
class Attempt:
    """One run of the training in the log: its epochs by number, and what it printed last."""

    by_number: dict[int, Epoch] = field(default_factory=dict)
    total_training_s: LoggedNumber | None = None
    best_val_loss: LoggedNumber | None = None
    best_val_accuracy_pct: LoggedNumber | None = None

    @property
    def epochs(self) -> list[Epoch]:
        return [self.by_number[number] for number in sorted(self.by_number)]

    @property
    def last(self) -> Epoch | None:
        return self.epochs[-1] if self.by_number else None

    @property
    def has_all_epochs(self) -> bool:
        last = self.last
        return last is not None and len(self.by_number) == last.epochs == last.epoch


@dataclass
class SlurmOut:
    """A Slurm log: its attempts in order (at least one), and lines that read like none.

    `unreadable` are the line numbers that speak of an epoch but do not hold a whole line:
    cut, or with another process' words in the middle.
    """

    path: Path
    attempts: list[Attempt]
    lines: int = 0
    unreadable: list[int] = field(default_factory=list)

    @property
    def last_attempt(self) -> Attempt:
        return self.attempts[-1]


def read_slurm_out(path: Path) -> SlurmOut:
    """Return what the training printed, attempt by attempt.

    A new attempt starts where Slurm says that it requeued the job, or where the epoch
    number goes back to 1; one that resumes at a later epoch inherits the epochs before it.
    Raises ScalingError when the file cannot be read.
    """
    log = SlurmOut(Path(path), [Attempt()])
    requeued = False
    for log.lines, (line, has_end) in enumerate(read_lines(path), start=1):
        if "\x1b" in line:
            line = clean_line(line)
        if "Epoch [" in line:
            epoch = parse_epoch_line(line, log.lines)
            if epoch is None:
                log.unreadable.append(log.lines)
            elif requeued or _starts_again(log.last_attempt, epoch):
                log.attempts.append(_follow(log.last_attempt, epoch))
                requeued = False
            if epoch is not None:
                log.last_attempt.by_number[epoch.epoch] = epoch
        elif "Total training" in line or "Best validation" in line:
            _take_total(log.last_attempt, clean_line(line), has_end)
        elif "DUE TO " in line and _REQUEUED.search(line):
            requeued = True
    return log


def parse_epoch_line(line: str, line_number: int = 0) -> Epoch | None:
    """Return the epoch line that stands in a line of the log, None when none does."""
    match = _EPOCH.search(clean_line(line))
    if match is None:
        return None
    found = match.groupdict()
    return Epoch(
        epoch=int(found["epoch"]),
        epochs=int(found["epochs"]),
        lr=LoggedNumber(found["lr"]),
        train_loss=LoggedNumber(found["train_loss"]),
        val_loss=LoggedNumber(found["val_loss"]),
        throughput_per_s=LoggedNumber(found["throughput"]),
        unit=found["unit"],
        text=match[0],
        line_number=line_number,
        **_parse_scores(found["scores"] or ""),
    )


def _parse_scores(text: str) -> dict[str, LoggedNumber]:
    for names, pattern in _SCORES.items():
        match = re.fullmatch(pattern, text.strip())
        if match:
            return dict(zip(names, map(LoggedNumber, match.groups()), strict=True))
    return {}


def _starts_again(attempt: Attempt, epoch: Epoch) -> bool:
    last, before = attempt.last, attempt.by_number.get(epoch.epoch)
    if last is None or (before is not None and before.text == epoch.text):
        return False  # the same line twice: `--tee` prints it to two places
    return epoch.epoch == 1 or epoch.epochs != last.epochs


def _follow(attempt: Attempt, epoch: Epoch) -> Attempt:
    """Return the attempt after this one, with the epochs that it did not have to repeat."""
    last = attempt.last
    if epoch.epoch == 1 or last is None or last.epochs != epoch.epochs:
        return Attempt()
    return Attempt({n: done for n, done in attempt.by_number.items() if n < epoch.epoch})


def _take_total(attempt: Attempt, line: str, has_end: bool) -> None:
    for name, pattern in _TOTALS.items():
        match = pattern.search(line)
        if match and (has_end or name != "best_val_loss"):
            setattr(attempt, name, LoggedNumber(match[1]))


def read_log_evidence(path: Path) -> tuple[Cause | None, Cause | None]:
    """Return (first cause, Slurm's word of the end) of a log; see causes.read_evidence."""
    return read_evidence(_text_lines(path))


def _text_lines(path: Path) -> Iterator[str]:
    return (line for line, _ in read_lines(path))
