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
from scaling.read.causes import WORDS, Cause, CauseSearch, Strength
from scaling.read.epoch_line import NUMBER, Epoch, is_of_others, parse_epoch_lines, parse_label
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
_MEMORY = re.compile(r"\[((?:gpu|cpu)_memory_log[^\]]*)\] ")  # as job_summary.py prints it
# NCCL's own words, with NCCL_DEBUG=INFO (NCCL 2.4 to 2.27).
_CHANNEL = re.compile(r"NCCL INFO Channel .* via NET/([A-Za-z0-9_-]+)")
_NETWORK = re.compile(r"NCCL INFO Using network (\S+)")
_INTERFACE = re.compile(r"NET/Socket : Using \[0\]([^:\s]+):")
_IB_DEVICE = re.compile(r"NET/IB : Using \[0\](\S+)")
_IB_DISABLED = re.compile(r"NCCL_IB_DISABLE set .* 1\b")
# What a line is that holds no figure of ours; the first that fits.
_PROGRESS = re.compile(r"\d+%\||\d+it \[|\[[#=> .-]{5,40}\]")
_SLURM = re.compile(r"\b(?:slurmstepd|srun|sbatch|torchrun|slurm_script):|\*{3} ")
_TRACEBACK = re.compile(r"Traceback \(most|^\s+File \"|^\s+\^+|^\w*(?:Error|Exception):")
# In small letters: with those of the causes, a line without any of them is only counted.
_WORDS = (
    *WORDS, "total training time: ", "best ", "due to ", "results: /", "_memory_log",
    "| loss (train", "| throughput: ",  # of an epoch line that another line was written into
)  # fmt: skip
_MAY_HAVE_LABEL = frozenset(" [0123456789")
TORN = "an epoch line that is cut or has other output in it"
OTHER_RANK = "line of another rank"
# Kept of a log, so that its size does not matter; of more the oldest are let go of.
MOST_ATTEMPTS, MOST_EPOCHS, MOST_REMEMBERED, MOST_RANKS = 1000, 20_000, 1000, 100_000
MOST_EXCERPTS = 100
TAIL_LINES, LINES_BEFORE, LINES_AFTER = 30, 8, 6


@dataclass
class Attempt:
    """One run of the training in the log: its epochs by number, and its totals by name.

    `totals` holds those of total_training_s, best_val_loss, best_val_accuracy_pct,
    best_val_perplexity and best_val_bleu that it printed. `newest` is the last epoch line that
    was read; `repeated` are the epochs that came twice in a row with other figures.
    """

    is_of_others = False  # windows of another trainer's log: see foreign_log.Windows
    by_number: dict[int, Epoch] = field(default_factory=dict)
    totals: dict[str, Decimal] = field(default_factory=dict)
    newest: Epoch | None = None
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

    @property
    def is_whole(self) -> bool:
        """Whether it trained all its epochs and said so."""
        return self.has_all_epochs and "total_training_s" in self.totals

    def describe_progress(self) -> str:
        last = self.last
        return f"epoch {last.epoch} of {last.epochs} done" if last else "no epoch line yet"


@dataclass
class Transport:
    """What NCCL said of the network: channels by transport, its interface, InfiniBand or none."""

    says_anything: bool = False
    channels: Counter[str] = field(default_factory=Counter)
    networks: set[str] = field(default_factory=set)
    interfaces: set[str] = field(default_factory=set)
    ib_devices: set[str] = field(default_factory=set)
    no_ib: bool = False
    ib_disabled: bool = False

    @property
    def is_socket(self) -> bool:
        return self.channels["Socket"] > 0 or (not self.channels and "Socket" in self.networks)

    def add(self, line: str) -> None:
        """Take a line of NCCL's in."""
        self.says_anything = True
        if match := _CHANNEL.search(line):
            self.channels[match[1]] += 1
        elif match := _NETWORK.search(line):
            self.networks.add(match[1])
        elif match := _INTERFACE.search(line):
            self.interfaces.add(match[1])
        elif match := _IB_DEVICE.search(line):
            self.ib_devices.add(match[1])
        self.no_ib = self.no_ib or "NET/IB : No device found" in line
        self.ib_disabled = self.ib_disabled or bool(_IB_DISABLED.search(line))


@dataclass
class JobLog:
    """A Slurm log: its attempts in order (at least one), its cause, and where its lines went.

    unreadable: the numbers of lines that speak of an epoch but hold no whole line: cut, or with
    another process' words in the middle (of many the first thousand). ranks: those that label
    lines. cause: the first one that the log shows; ending: Slurm's word of how the job ended.
    run_dir: the folder of `Results: DIR`. memory_lines: `gpu_memory_log - GPU 0` -> the number
    of the last line that begins with it in brackets. last_lines: as they stand; see `tail`.
    """

    path: Path
    attempts: list[Attempt] = field(default_factory=lambda: [Attempt()])
    counts: LineCounts = field(default_factory=LineCounts)
    unreadable: list[int] = field(default_factory=list)
    forgotten_attempts: int = 0
    ranks: set[int] = field(default_factory=set)
    cause: Cause | None = None
    ending: Cause | None = None
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
    def is_mixed(self) -> bool:
        """Whether several processes without a label print epoch lines that differ.

        Whose figures are the job's is then not known.
        """
        last, before = self.last_attempt, self.attempts[-2:-1]
        later = set(last.by_number) - {1}
        return bool(later and later <= last.repeated and before and set(before[0].by_number) == {1})

    @property
    def is_whole(self) -> bool:
        """Whether the last attempt trained all its epochs and said so."""
        return self.last_attempt.is_whole


def read_job_log(path: Path) -> JobLog:
    """Return what a job's log says (see JobLog), attempt by attempt.

    A new attempt starts where Slurm says that it requeued the job, or where the epoch
    number goes back to 1; one that resumes at a later epoch inherits the epochs before it.
    Of labelled ranks (srun --label, torchrun --tee) the lowest one's lines count.
    Raises UserError when the file cannot be read.
    """
    reader = _Reader(Path(path))
    for lines, have_ends in read_blocks(path):
        reader.add_lines(lines, have_ends)
    return reader.finish()


class _Reader:
    """Takes the lines of a Slurm log in; `log` is what they said so far."""

    def __init__(self, path: Path):
        self.log = JobLog(path)
        self.requeued = False
        self.label: tuple[int, ...] | None = None  # the lowest one that had an epoch line
        self.kinds: Counter[str] = Counter()  # of lines: epoch, total, requeue, or a rule's name
        self.search = CauseSearch()
        self.excerpts: dict[int, list[tuple[int, str]]] = {}  # by the line of the cause

    def add_lines(self, lines: list[str], have_ends: bool) -> None:
        log, kinds = self.log, self.kinds
        nccl = 0
        for number, line in enumerate(lines, start=log.counts.lines + 1):
            if "NCCL INFO " in line and "Epoch [" not in line:  # by far the most lines
                nccl += 1
                if "NET/" in line or "Using network" in line or "_IB_DISABLE" in line:
                    log.transport.add(line)
            else:
                kinds[self._add(number, line, have_ends)] += 1
            if line[:1] in _MAY_HAVE_LABEL and len(log.ranks) < MOST_RANKS:
                log.ranks.update(parse_label(line)[:1])  # of `3: [default0]:` srun's
        if nccl:
            kinds["NCCL"] += nccl
            log.transport.says_anything = True
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
            kept = {cause.line_number for cause in self.search.list_causes()}
            self.excerpts = {at: cut for at, cut in self.excerpts.items() if at in kept}
        self.log.last_lines = window[-TAIL_LINES:]

    def _add(self, number: int, line: str, has_end: bool) -> str:
        """Take one line in; return what it is: epoch, total, requeue, a reason or a rule."""
        line = drop_colours(line)
        if "Epoch [" in line:
            epochs = parse_epoch_lines(line, number)
            if epochs or " LR: " in line:
                self.search.pass_epoch()
            if epochs:
                return self._take_epochs(epochs, parse_label(line))
            if not is_of_others(line):
                if len(self.log.unreadable) < MOST_REMEMBERED:
                    self.log.unreadable.append(number)
                return TORN
        small = line.lower()
        if not self.search.in_traceback and not any(map(small.__contains__, _WORDS)):
            return name_rule(line)
        clean = clean_line(line)
        cause = self.search.add(number, clean)
        if cause is not None and cause.line_number == number:
            self.excerpts[number] = []
        if "total training" in small or "best " in small:
            what = self._take_total(clean, has_end, parse_label(line))
        elif _REQUEUED.search(line):
            self.requeued, what = True, "requeue"
        else:
            self._take_place(number, clean)
            what = TORN if "| Loss (train" in line or "| Throughput: " in line else ""
        return what or name_rule(line)

    def _take_place(self, number: int, line: str) -> None:
        """Take in where the results are, or that the job printed a memory line here."""
        if self.log.run_dir is None and (match := _RESULTS.match(line)):
            self.log.run_dir = Path(match[1])
        elif (match := _MEMORY.match(line)) and len(self.log.memory_lines) < MOST_REMEMBERED:
            self.log.memory_lines[match[1]] = number

    def _take_epochs(self, epochs: Sequence[Epoch], label: tuple[int, ...]) -> str:
        """Take in the epoch lines of one line, of the ranks that its label names."""
        if self.label is None or label < self.label:
            if self.label is not None:
                self.kinds[OTHER_RANK] += self.kinds.pop("epoch", 0) + self.kinds.pop("total", 0)
                self.log.attempts = [Attempt()]
            self.label = label
        if label > self.label:
            return OTHER_RANK
        for epoch in epochs:
            self._take_epoch(epoch)
        return "epoch"

    def _take_epoch(self, epoch: Epoch) -> None:
        log = self.log
        attempt = log.last_attempt
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
        for kind, lines in self.kinds.items():
            if kind in ("epoch", "total", "requeue"):
                counts.kept += lines
            elif kind == TORN:
                counts.dropped[kind] = lines
            else:
                counts.ignored[kind] = lines
        log.cause = self._attach_excerpt(self.search.choose())
        log.ending = self._attach_excerpt(self.search.ending)
        return log

    def _attach_excerpt(self, cause: Cause | None) -> Cause | None:
        lines = self.excerpts.get(cause.line_number, []) if cause else []
        excerpt = tuple((number, clean_line(line)) for number, line in lines)
        return cause and replace(cause, excerpt=excerpt)


def name_rule(line: str) -> str:
    """Return what a line is that holds no figure of ours."""
    if not line or line.isspace():
        return "blank"
    line = line[:2000]
    if re.search(r"\bNCCL (?:INFO|WARN|version|TRACE)\b", line):
        return "NCCL"
    if ("%|" in line or "it [" in line or "[" in line) and _PROGRESS.search(line):
        return "progress bar"
    if _SLURM.search(line):
        return "Slurm or launcher"
    return "traceback" if _TRACEBACK.search(line) else "other output"


def _starts_again(attempt: Attempt, epoch: Epoch) -> bool:
    last = attempt.newest
    if last is None or (epoch.epoch != 1 and epoch.epochs == last.epochs):
        return False
    before = attempt.by_number.get(epoch.epoch)
    is_copy = before is not None and before.text == epoch.text  # `--tee` prints to two places
    return not is_copy or "total_training_s" in attempt.totals


def _follow(attempt: Attempt, epoch: Epoch) -> Attempt:
    """Return the attempt after this one, with the epochs that it did not have to repeat."""
    last = attempt.last
    if epoch.epoch == 1 or last is None or last.epochs != epoch.epochs:
        return Attempt()
    return Attempt({n: done for n, done in attempt.by_number.items() if n < epoch.epoch})


def find_final_cause(log: JobLog) -> Cause | None:
    """Return the log's cause, None when it is only what processes say of each other at the end."""
    if log.cause and log.is_whole and log.cause.strength < Strength.ROOT:
        return None
    return log.cause
