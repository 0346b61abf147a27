"""Read a job's Slurm log in one pass: what was trained, why it ended, where its files are.

The log is a human's: the epoch line stands among NCCL's lines, tracebacks and Slurm's own
words, may carry a launcher's label or colours, and a requeued job appends to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from common.counts import LineCounts
from scaling.read.causes import WORDS, Cause, CauseSearch
from scaling.read.contract import parse_log_name, split_id
from scaling.read.epoch_line import (
    MAY_BEGIN_LABEL,
    NUMBER,
    Epoch,
    is_of_others,
    parse_epoch_lines,
    parse_label,
)
from scaling.read.symptoms import ROOT
from scaling.read.text import clean_line, drop_colours, read_blocks

_TOTALS = {
    "total_training_s": re.compile(rf"Total training time: ({NUMBER}) s\b"),
    "best_val_loss": re.compile(rf"Best validation loss: ({NUMBER})\s*$"),
    "best_val_accuracy_pct": re.compile(rf"Best validation accuracy: ({NUMBER})%"),
    "best_val_perplexity": re.compile(rf"Best validation perplexity: ({NUMBER})\s*$"),
    "best_val_bleu": re.compile(rf"Best BLEU: ({NUMBER})\s*$"),
}
_REQUEUED = re.compile(r"DUE TO (?:PREEMPTION|JOB REQUEUE|NODE FAILURE)", re.IGNORECASE)
_RESULTS = re.compile(r"Results: (/.+)$")  # as the job script prints it near its beginning
_NO_TOOL = re.compile(r"\b(psrecord): command not found|^No (nvidia-smi|amd-smi)\b")
_MEMORY = re.compile(r"\[((?:gpu|cpu)_memory_log[^\]]*)\] ")  # as job_summary.py prints it
# NCCL's own words, with NCCL_DEBUG=INFO (NCCL 2.4 to 2.27): what they name.
_TRANSPORT = {
    "channels": re.compile(r"NCCL INFO Channel .* via NET/([A-Za-z0-9_-]+)"),
    "networks": re.compile(r"NCCL INFO Using network (\S+)"),
    "interfaces": re.compile(r"NET/Socket : Using \[0\]([^:\s]+):"),
    "ib_devices": re.compile(r"NET/IB : Using \[0\](\S+)"),
}
_IB_DISABLED = re.compile(r"NCCL_IB_DISABLE set .* 1\b")
# What a line is that holds no figure of ours; the first that fits.
_OTHER_LINES = {
    "NCCL": re.compile(r"\bNCCL (?:INFO|WARN|version|TRACE)\b"),
    "progress bar": re.compile(r"\d+%\||\d+it \[|\[[#=> .-]{5,40}\]"),
    "Slurm or launcher": re.compile(r"\b(?:slurmstepd|srun|sbatch|torchrun|slurm_script):|\*{3} "),
    "traceback": re.compile(r"Traceback \(most|^\s+File \"|^\s+\^+|^\w*(?:Error|Exception):"),
}
# Lines that differ in numbers alone are many: 0 stands for any digit in their shape. In small
# letters: with those of the causes, a line whose shape has none of these words is only counted.
_TO_ZERO = str.maketrans("123456789", "000000000")
_WORDS = tuple(
    word.translate(_TO_ZERO) for word in (
        *WORDS, "due to ", "results: /", "_memory_log", "no nvidia-smi",
        "| loss (train", "| throughput: ",  # of a torn epoch line
    )
)  # fmt: skip
LONGEST_SHAPE, MOST_SHAPES = 500, 10_000
TORN = "an epoch line that is cut or has other output in it"
OTHER_RANK = "line of another rank"
OTHER_RUN = "epoch line that is not this run's"
# Kept of a log, so that its size does not matter; of more the oldest are let go of.
MOST_ATTEMPTS, MOST_EPOCHS, MOST_REMEMBERED, MOST_RANKS = 1000, 20_000, 1000, 100_000
MOST_EXCERPTS = 100
TAIL_LINES, LINES_BEFORE, LINES_AFTER = 30, 8, 6


@dataclass
class Attempt:
    """One run of the training in the log: its epochs by number, and its totals by name.

    totals: those of _TOTALS that it printed. newest: the last epoch line that was read; repeated:
    the epochs that came twice in a row with other figures. number counts the job's restarts, where
    its script marks them. cause: the first one that this part of the log shows; ending: Slurm's
    word of how the job ended, and the cause without believing it. echoing: the ranks whose last
    word blames a peer.
    """

    is_of_others = False  # windows of another trainer's log: see foreign_log.Windows
    number: int = 0
    by_number: dict[int, Epoch] = field(default_factory=dict)
    totals: dict[str, Decimal] = field(default_factory=dict)
    newest: Epoch | None = None
    repeated: set[int] = field(default_factory=set)
    cause: Cause | None = None
    cause_without_ending: Cause | None = None
    ending: Cause | None = None
    echoing: set[int] = field(default_factory=set)

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

    @property
    def is_whole(self) -> bool:
        """Whether it trained all its epochs and said so."""
        return self.has_all_epochs and "total_training_s" in self.totals

    def describe_bad_loss(self) -> str:
        """Return that the loss is no number and since when, "" when it always is one."""
        for epoch in self.epochs:
            losses = (epoch.train_loss, epoch.val_loss)
            if any(loss is not None and not loss.is_finite() for loss in losses):
                shown = f"training {epoch.train_loss}, validation {epoch.val_loss}"
                return f"the loss is no number since epoch {epoch.epoch} ({shown})"
        return ""

    def take_causes(self, other: Attempt) -> None:
        """Take over why the job ended, as the same part of the log shows it."""
        self.cause, self.cause_without_ending = other.cause, other.cause_without_ending
        self.ending, self.echoing = other.ending, other.echoing

    def describe_progress(self) -> str:
        last = self.last
        return f"epoch {last.epoch} of {last.epochs} done" if last else "no epoch line yet"


@dataclass
class Transport:
    """What NCCL said of the network: channels by transport, its interface, InfiniBand or none."""

    says_anything: bool = False
    channels: Counter[str] = field(default_factory=Counter)
    networks: Counter[str] = field(default_factory=Counter)
    interfaces: Counter[str] = field(default_factory=Counter)
    ib_devices: Counter[str] = field(default_factory=Counter)
    no_ib: bool = False
    ib_disabled: bool = False

    @property
    def is_socket(self) -> bool:
        return self.channels["Socket"] > 0 or (not self.channels and "Socket" in self.networks)

    def add(self, line: str) -> None:
        """Take a line of NCCL's in."""
        for name, pattern in _TRANSPORT.items():
            if match := pattern.search(line):
                getattr(self, name)[match[1]] += 1
                break
        self.no_ib = self.no_ib or "NET/IB : No device found" in line
        self.ib_disabled = self.ib_disabled or bool(_IB_DISABLED.search(line))


@dataclass
class JobLog:
    """A Slurm log: its attempts in order (at least one), and where its lines went.

    unreadable: the numbers of lines that speak of an epoch but hold no whole line: cut, or with
    another process' words in the middle (of many the first thousand). ranks: those that label
    lines. missing_tools: what a node said that it has not. run_dir: the folder of
    `Results: DIR`. memory_lines: `gpu_memory_log - GPU 0` -> the number of the last line that
    begins with it in brackets. last_lines: as they stand; see `tail`.
    """

    path: Path
    attempts: list[Attempt] = field(default_factory=lambda: [Attempt()])
    counts: LineCounts = field(default_factory=LineCounts)
    unreadable: list[int] = field(default_factory=list)
    forgotten_attempts: int = 0
    ranks: set[int] = field(default_factory=set)
    missing_tools: set[str] = field(default_factory=set)
    transport: Transport = field(default_factory=Transport)
    run_dir: Path | None = None
    memory_lines: dict[str, int] = field(default_factory=dict)
    last_lines: list[str] = field(default_factory=list)

    @property
    def tail(self) -> list[tuple[int, str]]:
        """(number, text) of the last 30 lines."""
        first = self.counts.lines - len(self.last_lines) + 1
        return [(at, clean_line(line)) for at, line in enumerate(self.last_lines, start=first)]

    @property
    def last_attempt(self) -> Attempt:
        return self.attempts[-1]

    @property
    def has_epochs(self) -> bool:
        return any(attempt.by_number for attempt in self.attempts)

    @property
    def cause(self) -> Cause | None:
        return self.last_attempt.cause

    def find_attempt(self, restart: int, restarts: int, is_complete: bool) -> Attempt | None:
        """Return a restart's part of the log; None when that has printed nothing yet.

        restarts: how many the job had so far.
        """
        last = self.last_attempt
        if last.number:
            if restart == restarts <= last.number:
                return last  # where other jobs' parts are before it, too
            found = [attempt for attempt in self.attempts if attempt.number == restart]
            return found[-1] if found else None
        if restart < restarts:  # a forerunner: what comes after it must be there
            return self.attempts[restart] if restart < len(self.attempts) - 1 else None
        # A restart that has printed nothing yet must not be given its forerunner's epochs; a log
        # of others has those of all restarts.
        is_there = last.is_of_others or is_complete or restart < len(self.attempts)
        return last if is_there else None

    @property
    def is_mixed(self) -> bool:
        """Whether several processes without a label print epoch lines that differ.

        Whose figures are the job's is then not known.
        """
        last, before = self.last_attempt, self.attempts[-2:-1]
        later = set(last.by_number) - {1}
        return bool(later and later <= last.repeated and before and set(before[0].by_number) == {1})


def read_job_log(path: Path, job_id: str | None = None, epochs: int | None = None) -> JobLog:
    """Return what a job's log says (see JobLog), attempt by attempt.

    A new attempt starts where the job's script names the results' folder again; without that line
    where Slurm says that it requeued the job, or where the epoch number goes back to 1. Of labelled
    ranks (srun --label, torchrun --tee) the lowest one's lines count. job_id: what Slurm says of
    another job is not this one's (default: as the log's name says); epochs: of the run, by its
    run.json; a line with another total is not its own.
    """
    path = Path(path)
    reader = _Reader(path, job_id or _job_of(path), epochs)
    for lines, have_ends in read_blocks(path):
        reader.add_lines(lines, have_ends)
    return reader.finish()


def find_run_dir(path: Path) -> Path | None:
    """Return the folder that a job's log says its results are in, None when it says nothing.

    It may be relative: to the folder that the job was submitted in.
    """
    for lines, _ in read_blocks(path):
        for line in lines:
            if line.startswith("Results: ") and line[9:].strip():
                return Path(line[9:].strip())
    return None


def _job_of(path: Path) -> str | None:
    """Return the job id of a log's name; of an array's task (`%A_%a`) it is another number."""
    name, run_id = parse_log_name(path.name) or ("", "")
    is_array = re.search(r"(?:^|[_.-])\d+$", name)
    return None if is_array or not run_id else str(split_id(run_id)[0])


class _Reader:
    """Takes the lines of a Slurm log in; `log` is what they said so far."""

    def __init__(self, path: Path, job_id: str | None, epochs: int | None):
        self.log = JobLog(path)
        self.job_id, self.epochs = job_id, epochs
        self.requeued = False
        self.label: tuple[int, ...] | None = None  # the lowest one that had an epoch line
        self.kinds: Counter[str] = Counter()  # of lines: epoch, total, requeue, or a rule's name
        self.search = CauseSearch(job_id)
        self.shapes: dict[str, str] = {}  # lines that say nothing, but for their numbers -> a rule
        self.excerpts: dict[int, list[tuple[int, str]]] = {}  # by the line of the cause

    def add_lines(self, lines: list[str], have_ends: bool) -> None:
        """Take lines in."""
        log = self.log
        numbered = enumerate(lines, start=log.counts.lines + 1)
        others = [each for each in numbered if "NCCL INFO " not in each[1] or "Epoch [" in each[1]]
        if nccl := len(lines) - len(others):  # by far the most lines
            self.kinds["NCCL"] += nccl
            log.transport.says_anything = True
            for line in lines:
                if ("NET/" in line or "Using network" in line or "_IB_DISABLE" in line) and (
                    "NCCL INFO " in line
                ):
                    log.transport.add(line)
        for number, line in others:
            self.kinds[self._add(number, line, have_ends)] += 1
        if len(log.ranks) < MOST_RANKS:
            labelled = (parse_label(line) for line in lines if line[:1] in MAY_BEGIN_LABEL)
            log.ranks.update(label[0] for label in labelled if label)  # `3: [default0]:` is srun's
        log.counts.lines += len(lines)
        self._cut_excerpts(lines)

    def _cut_excerpts(self, lines: list[str]) -> None:
        """Take the lines around each new cause out of these and the last ones before them."""
        window = self.log.last_lines + lines
        first = self.log.counts.lines - len(window) + 1
        for at, excerpt in list(self.excerpts.items()):
            until = at + LINES_AFTER
            start = excerpt[-1][0] + 1 if excerpt else max(at - LINES_BEFORE, 1)
            for number in range(start, min(until, self.log.counts.lines) + 1):
                excerpt.append((number, window[number - first]))
        if len(self.excerpts) > MOST_EXCERPTS:
            chosen = [cause for each in self.log.attempts for cause in (each.cause, each.ending)]
            kept = {cause.line_number for cause in [*chosen, *self.search.list_causes()] if cause}
            self.excerpts = {at: cut for at, cut in self.excerpts.items() if at in kept}
        self.log.last_lines = window[-TAIL_LINES:]

    def _add(self, number: int, line: str, has_end: bool) -> str:
        """Take one line in; return what it is: epoch, total, requeue, a reason or a rule."""
        if "\x1b" in line:
            line = drop_colours(line)
        if "Epoch [" in line:
            if found := parse_epoch_lines(line, number):
                return self._take_epochs(found, line)
            if not is_of_others(line):
                if len(self.log.unreadable) < MOST_REMEMBERED:
                    self.log.unreadable.append(number)
                return TORN
        if "Total training" in line or "Best " in line:
            what = self._take_total(clean_line(line), has_end, parse_label(line))
            if what:
                return what
        if not self.search.is_reading:
            shape = line.translate(_TO_ZERO)
            if (rule := self.shapes.get(shape)) is not None:
                return rule
            small = shape.lower()
            if not any(map(small.__contains__, _WORDS)):
                rule = _name_rule(line)
                if len(line) < LONGEST_SHAPE and len(self.shapes) < MOST_SHAPES:
                    self.shapes[shape] = rule
                return rule
        clean = clean_line(line)
        for at in self.search.add(number, clean):
            self.excerpts.setdefault(at, [])
        if _REQUEUED.search(line):
            self.requeued = True
            return "requeue"
        self._take_place(number, clean)
        return TORN if "| Loss (train" in line or "| Throughput: " in line else _name_rule(line)

    def _take_place(self, number: int, line: str) -> None:
        """Take in where the results are, or that the job printed a memory line here."""
        if match := _RESULTS.match(line):
            if self.log.run_dir is None:
                self.log.run_dir = Path(match[1])
            elif self.log.run_dir == Path(match[1]):  # the job's script began again
                self._begin_attempt(Attempt(self.log.last_attempt.number + 1))
        elif match := _NO_TOOL.search(line):
            self.log.missing_tools.add(match[match.lastindex])
        elif (match := _MEMORY.match(line)) and len(self.log.memory_lines) < MOST_REMEMBERED:
            self.log.memory_lines[match[1]] = number

    def _take_epochs(self, found: Sequence[Epoch], line: str) -> str:
        """Take in the epoch lines of one line that a run of so many epochs can have printed."""
        epochs = [
            epoch for epoch in found
            if 1 <= epoch.epoch <= epoch.epochs and self.epochs in (None, epoch.epochs)
        ]  # fmt: skip
        if not epochs:
            return OTHER_RUN
        self.search.pass_epoch()
        label = parse_label(line)
        if self.label is None or label < self.label:
            if self.label is not None:
                self.kinds[OTHER_RANK] += self.kinds.pop("epoch", 0) + self.kinds.pop("total", 0)
                self.log.attempts = [Attempt(self.log.last_attempt.number)]
            self.label = label
        if label > self.label:
            return OTHER_RANK
        for epoch in epochs:
            self._take_epoch(epoch)
        return "epoch"

    def _begin_attempt(self, attempt: Attempt) -> None:
        """Start a new part of the log; the search for a cause starts anew where a job does."""
        log = self.log
        if attempt.number != log.last_attempt.number:
            self._end_search()
            self.search = CauseSearch(self.job_id)
        log.attempts.append(attempt)
        self.requeued = False
        if len(log.attempts) > MOST_ATTEMPTS:
            del log.attempts[0]
            log.forgotten_attempts += 1

    def _end_search(self) -> None:
        attempt, search = self.log.last_attempt, self.search
        attempt.cause_without_ending = search.choose_without_ending()
        attempt.cause = search.choose() if search.ending else attempt.cause_without_ending
        attempt.ending, attempt.echoing = search.ending, search.echoing

    def _take_epoch(self, epoch: Epoch) -> None:
        log = self.log
        attempt = log.last_attempt
        if attempt.newest is None and len(log.attempts) > 1:  # the first that it prints
            attempt.by_number = _follow(log.attempts[-2], epoch)
        elif (self.requeued and log.run_dir is None) or _starts_again(attempt, epoch):
            self._begin_attempt(Attempt(attempt.number, _follow(attempt, epoch)))
            attempt = log.last_attempt
        before = attempt.newest
        if before and before.epoch == epoch.epoch and before.text != epoch.text:
            attempt.repeated.add(epoch.epoch)
        attempt.by_number[epoch.epoch] = attempt.newest = epoch
        if len(attempt.by_number) > MOST_EPOCHS:
            del attempt.by_number[next(iter(attempt.by_number))]

    def _take_total(self, line: str, has_end: bool, label: tuple[int, ...]) -> str:
        if self.label is not None and label > self.label:
            return OTHER_RANK
        for name, pattern in _TOTALS.items():
            match = pattern.search(line)
            # A figure that no unit closes may be cut where the file ends.
            if match and (has_end or not pattern.pattern.endswith("$")):
                self.log.last_attempt.totals[name] = Decimal(match[1])
                return "total"
        return ""

    def finish(self) -> JobLog:
        log, counts = self.log, self.log.counts
        counts.kept = sum(self.kinds.pop(kind, 0) for kind in ("epoch", "total", "requeue"))
        counts.dropped = Counter({TORN: self.kinds.pop(TORN)} if TORN in self.kinds else {})
        counts.ignored = self.kinds
        self._end_search()
        for attempt in log.attempts:
            attempt.cause = self._attach_excerpt(attempt.cause)
            attempt.ending = self._attach_excerpt(attempt.ending)
        return log

    def _attach_excerpt(self, cause: Cause | None) -> Cause | None:
        if cause is None:
            return None
        lines = self.excerpts.get(cause.line_number, [])
        return replace(cause, excerpt=tuple((at, clean_line(line)) for at, line in lines))


def _name_rule(line: str) -> str:
    """Return what a line is that holds no figure of ours."""
    if not line or line.isspace():
        return "blank"
    line = line[:2000]
    found = (name for name, pattern in _OTHER_LINES.items() if pattern.search(line))
    return next(found, "other output")


def _starts_again(attempt: Attempt, epoch: Epoch) -> bool:
    last = attempt.newest
    if last is None or (epoch.epoch != 1 and epoch.epochs == last.epochs):
        return False
    before = attempt.by_number.get(epoch.epoch)
    is_copy = before is not None and before.text == epoch.text  # `--tee` prints to two places
    return not is_copy or "total_training_s" in attempt.totals


def _follow(attempt: Attempt, epoch: Epoch) -> dict[int, Epoch]:
    """Return the epochs that the attempt after this one did not have to repeat."""
    last = attempt.last
    if epoch.epoch == 1 or last is None or last.epochs != epoch.epochs:
        return {}
    return {n: done for n, done in attempt.by_number.items() if n < epoch.epoch}


def find_final_cause(log: JobLog) -> Cause | None:
    """Return the log's cause, None when it is only what processes say of each other at the end."""
    last = log.last_attempt
    return None if last.cause and last.is_whole and last.cause.strength < ROOT else last.cause
