"""Read a job's Slurm log in one pass: what was trained, why it ended, where its files are.

The log is a human's: the epoch line stands among NCCL's lines, tracebacks and Slurm's own
words, may carry a launcher's label or colours, and a requeued job appends to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from common.console import printable
from common.counts import LineCounts
from common.errors import UserError
from scaling.read.causes import Cause, CauseSearch, Findings, pick_words
from scaling.read.contract import parse_log_name, read_json, split_id, whole_number
from scaling.read.symptoms import ROOT
from scaling.read.text import MAY_BEGIN_LABEL, clean_line, parse_label, read_blocks

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|nan|inf)"
_CHARS = r"[-+\d.eE%naif]{1,40}"  # of a number, for speed; what is none is not read later
# All but the epoch and the throughput may be missing, as in the log of a trainer of the reader's
# own. What stands between must be names with numbers, so that no torn line is taken for one; and
# the unit closes the line: without it the last number may be cut.
_EPOCH = re.compile(
    rf"Epoch \[(\d{{1,9}})/(\d{{1,9}})\](?: LR: (?P<lr>{_NUMBER})(?: \|)?)?(?: \|)?"
    rf"(?P<between>(?: [A-Za-z][\w (),/-]{{0,60}}: {_CHARS}(?:, {_CHARS}){{0,3}} \|){{0,9}})"
    rf" Throughput: (?P<throughput_per_s>{_NUMBER}) ((?:img|tokens|samples)/s)"
)
# `Accuracy (train, val): 2.16%, 0.98%` holds train_accuracy_pct and val_accuracy_pct, `BLEU (val):
# 23.4` val_bleu, `Loss: 2.5` train_loss; any score is read so.
_SCORE = re.compile(
    rf"([A-Za-z][\w -]{{0,40}})(?: \((train, val|train|val)\))?: "
    rf"({_NUMBER})(%?)(?:, ({_NUMBER})\4)?"
)
_OTHERS_EPOCH = re.compile(r"Epoch \[\d+/\d+\](?! LR|(?: \|)? Throughput: )")
_TOTALS = {
    "total_training_s": re.compile(rf"Total training time: ({_NUMBER}) s\b"),
    "best_val_loss": re.compile(rf"Best validation loss: ({_NUMBER})\s*$"),
    "best_val_accuracy_pct": re.compile(rf"Best validation accuracy: ({_NUMBER})%"),
    "best_val_perplexity": re.compile(rf"Best validation perplexity: ({_NUMBER})\s*$"),
    "best_val_bleu": re.compile(rf"Best BLEU: ({_NUMBER})\s*$"),
}
_REQUEUED = re.compile(r"DUE TO (?:PREEMPTION|JOB REQUEUE|NODE FAILURE)")
_RESULTS = re.compile(r"Results: (/.+)$")  # as the job script prints it near its beginning
_NO_TOOL = re.compile(r"\b(psrecord): command not found|^No (nvidia-smi|amd-smi)\b")
_MEMORY = re.compile(r"\[((?:gpu|cpu)_memory_log[^\]]*)\] ")  # as job_summary.py prints it
# What these, and a torn epoch line, have.
_WORDS = ("DUE TO ", "Results: /", ": command not found", "No nvidia-smi", "No amd-smi",
          "_memory_log", "| Loss (train", "| Throughput: ", "Epoch [")  # fmt: skip
# NCCL's own words, with NCCL_DEBUG=INFO (NCCL 2.4 to 2.27): what they name.
_NCCL = "NCCL INFO "
_TRANSPORT = {
    "channels": re.compile(r"NCCL INFO Channel .* via NET/([A-Za-z0-9_-]+)"),
    "networks": re.compile(r"NCCL INFO Using network (\S+)"),
    "interfaces": re.compile(r"NET/Socket : Using \[0\]([^:\s]+):"),
    "ib_devices": re.compile(r"NET/IB : Using \[0\](\S+)"),
    "no_ib": re.compile(r"NET/IB : (No device found)"),
    "ib_disabled": re.compile(r"NCCL_IB_DISABLE set .* (1)\b"),
}
TORN = "an epoch line that is cut or has other output in it"
OTHER_RANK = "line of another rank"
OTHER_RUN = "epoch line that is not this run's"
OTHER = "other output"
# Kept of a log, so that its size does not matter; of more attempts and epochs the oldest go.
MOST_ATTEMPTS, MOST = 1000, 20_000
TAIL_LINES, LINES_BEFORE, LINES_AFTER = 30, 8, 6


class Epoch(NamedTuple):
    """One epoch line. Losses are means over samples, accuracies in %, throughput is global.

    What the line does not hold is None; of a log of others a window stands in for an epoch.
    Numbers have the digits of the log: str() gives them back. They are made when they are asked
    for, since most lines of most logs are only counted. `text` is the line without what stood
    around it; `line_number` counts from 1.
    """

    epoch: int
    epochs: int
    unit: str  # img/s, tokens/s or samples/s
    text: str
    line_number: int
    printed: dict[str, str]  # figures by name, and what stands `between` some

    @property
    def throughput_per_s(self) -> Decimal:
        return Decimal(self.printed["throughput_per_s"])

    def get(self, name: str) -> Decimal | None:
        """Return a figure by its name (lr, train_loss, val_bleu …), None when it is not there."""
        if (text := self.printed.get(name)) is None:
            text = _read_scores(self.printed.get("between", "")).get(name)
        return None if text is None else Decimal(text)


@lru_cache(maxsize=1000)
def _read_scores(between: str) -> dict[str, str]:
    """Return the losses and scores that stand between the learning rate and the throughput."""
    found = {}
    for part in between.split("|"):
        if match := _SCORE.fullmatch(part.strip()):
            name, of, *values, sign, last = match.groups()
            values += [] if last is None else [last]
            sets = of.split(", ") if of else ["train"] if name == "Loss" else []
            name = name.lower().replace(" ", "_") + ("_pct" if sign else "")
            if len(sets) == len(values):
                found |= {f"{s}_{name}": text for s, text in zip(sets, values, strict=True)}
    return found


def parse_epoch_lines(line: str, line_number: int = 0) -> list[Epoch]:
    """Return each whole epoch line in a line of the log: ranks may print into one line."""
    found = list(_EPOCH.finditer(line))
    if not found and not line.isprintable():
        found = _EPOCH.finditer(clean_line(line))
    return [Epoch(int(m[1]), int(m[2]), m[6], m[0], line_number, m.groupdict()) for m in found]


@dataclass
class Attempt:
    """One run of the training in the log: its epochs by number, and its totals by name.

    totals: those of _TOTALS that it printed. newest: the last epoch line that was read; repeated:
    the epochs that came twice in a row with other figures. number counts the job's restarts, where
    its script marks them. found: why this part of the log ended.
    """

    is_of_others = False  # windows of another trainer's log: see foreign_log.Windows
    number: int = 0
    by_number: dict[int, Epoch] = field(default_factory=dict)
    totals: dict[str, Decimal] = field(default_factory=dict)
    newest: Epoch | None = None
    repeated: set[int] = field(default_factory=set)
    found: Findings = field(default_factory=Findings)

    @property
    def cause(self) -> Cause | None:
        return self.found.cause

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
            train, val = epoch.get("train_loss"), epoch.get("val_loss")
            if any(loss is not None and not loss.is_finite() for loss in (train, val)):
                shown = f"training {train}, validation {val}"
                return f"the loss is no number since epoch {epoch.epoch} ({shown})"
        return ""

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
    no_ib: set[str] = field(default_factory=set)  # its words, where it said so
    ib_disabled: set[str] = field(default_factory=set)

    @property
    def is_socket(self) -> bool:
        return self.channels["Socket"] > 0 or (not self.channels and "Socket" in self.networks)

    def add(self, line: str) -> None:
        """Take a line of NCCL's in."""
        for name, pattern in _TRANSPORT.items():
            if match := pattern.search(line):
                getattr(self, name).update([match[1]])
                break


@dataclass
class JobLog:
    """A Slurm log: its attempts in order (at least one), and where its lines went.

    ranks: those that label lines. missing_tools: what a node said that it has not. run_dir: the
    folder of `Results: DIR`. memory_lines: `gpu_memory_log - GPU 0` -> the number of the last line
    that begins with it in brackets. last_lines: as they stand; see `tail`.
    """

    path: Path
    attempts: list[Attempt] = field(default_factory=lambda: [Attempt()])
    counts: LineCounts = field(default_factory=LineCounts)
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


def find_final_cause(log: JobLog) -> Cause | None:
    """Return the log's cause, None when it is only what processes say of each other at the end."""
    last = log.last_attempt
    return None if last.cause and last.is_whole and last.cause.strength < ROOT else last.cause


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
        self.open: list[Cause] = []  # those of which lines after them are still to come

    def add_lines(self, lines: list[str], have_ends: bool) -> None:
        """Take a block of lines in; most of them hold no known word and are only counted."""
        log, kinds = self.log, self.kinds
        numbered = enumerate(lines, start=log.counts.lines + 1)
        others = [(at, line) for at, line in numbered if _NCCL not in line or "Epoch [" in line]
        if len(others) < len(lines):  # by far the most lines
            kinds["NCCL"] += len(lines) - len(others)
            log.transport.says_anything = True
            for line in lines:
                if "NET/" in line or "Using network" in line or "_IB_DISABLE" in line:
                    log.transport.add(line)
        epochs = {at: parse_epoch_lines(line, at) for at, line in others if "Epoch [" in line}
        rest = [line for at, line in others if not epochs.get(at)]
        words, text = pick_words(rest), "\n".join(rest)
        places = tuple([word for word in _WORDS if word in text])
        kinds["blank"] += sum([not line or line.isspace() for line in rest])
        may_tell = words or places or self.search.is_reading
        for at, line in others:
            if found := epochs.get(at):
                what = self._take_epochs(found, line)
            else:
                is_total = "Total training" in line or "Best " in line
                what = self._take_total(line, have_ends) if is_total else ""
                what = what or (may_tell and self._judge(at, line, words, places))
            if what:
                kinds[what] += 1
        if not MAY_BEGIN_LABEL.isdisjoint([line[:1] for line in lines]) and len(log.ranks) < MOST:
            labelled = [parse_label(line) for line in lines]
            log.ranks.update([label[0] for label in labelled if label])  # the first is srun's
        log.counts.lines += len(lines)
        self._cut_excerpts(lines)

    def _cut_excerpts(self, lines: list[str]) -> None:
        """Give new causes the lines around them, out of these and the last ones before them."""
        window, end = self.log.last_lines + lines, self.log.counts.lines
        first = end - len(window) + 1
        for cause in self.open:
            at = cause.line_number
            start = cause.excerpt[-1][0] + 1 if cause.excerpt else at - LINES_BEFORE
            around = range(max(start, first), min(at + LINES_AFTER, end) + 1)
            cause.excerpt.extend((number, clean_line(window[number - first])) for number in around)
        self.open = [cause for cause in self.open if cause.line_number + LINES_AFTER > end]
        self.log.last_lines = window[-TAIL_LINES:]

    def _judge(
        self, number: int, line: str, words: tuple[str, ...], places: tuple[str, ...]
    ) -> str:
        """Take a line without a figure in; return what it is when it is more than other output."""
        if "Epoch [" in line and not _OTHERS_EPOCH.search(line):
            return TORN
        small, log = line.lower(), self.log
        is_place = any(map(line.__contains__, places))
        if not (is_place or self.search.is_reading or any(map(small.__contains__, words))):
            return ""
        line = clean_line(line)
        self.open += self.search.add(number, line, words)
        if not is_place:
            return ""
        if _REQUEUED.search(line):
            self.requeued = True
            return "requeue"
        if match := _RESULTS.match(line):
            if log.run_dir is None:
                log.run_dir = Path(match[1])
            elif log.run_dir == Path(match[1]):  # the job's script began again
                self._begin_attempt(Attempt(log.last_attempt.number + 1))
        elif match := _NO_TOOL.search(line):
            log.missing_tools.add(match[match.lastindex])
        elif (match := _MEMORY.match(line)) and len(log.memory_lines) < MOST:
            log.memory_lines[match[1]] = number
        return TORN if "| Loss (train" in line or "| Throughput: " in line else ""

    def _take_epochs(self, found: Sequence[Epoch], line: str) -> str:
        """Take in the epoch lines of one line that a run of so many epochs can have printed."""
        own = [
            epoch for epoch in found
            if 1 <= epoch.epoch <= epoch.epochs and self.epochs in (None, epoch.epochs)
        ]  # fmt: skip
        if not own:
            return OTHER_RUN
        self.search.pass_epoch()
        label = parse_label(line)
        if label != self.label:
            if self.label is not None and label > self.label:
                return OTHER_RANK
            if self.label is not None:
                self.kinds[OTHER_RANK] += self.kinds.pop("epoch", 0) + self.kinds.pop("total", 0)
                self.log.attempts = [Attempt(self.log.last_attempt.number)]
            self.label = label
        for epoch in own:
            self._take_epoch(epoch)
        return "epoch"

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
        if len(attempt.by_number) > MOST:
            del attempt.by_number[next(iter(attempt.by_number))]

    def _take_total(self, line: str, has_end: bool) -> str:
        if self.label is not None and parse_label(line) > self.label:
            return OTHER_RANK
        line = clean_line(line)
        for name, pattern in _TOTALS.items():
            match = pattern.search(line)
            # A figure that no unit closes may be cut where the file ends.
            if match and (has_end or not pattern.pattern.endswith("$")):
                self.log.last_attempt.totals[name] = Decimal(match[1])
                return "total"
        return ""

    def _begin_attempt(self, attempt: Attempt) -> None:
        """Start a new part of the log; the search for a cause starts anew where a job does."""
        log = self.log
        if attempt.number != log.last_attempt.number:
            log.last_attempt.found = self.search.finish()
            self.search = CauseSearch(self.job_id)
        log.attempts.append(attempt)
        self.requeued = False
        if len(log.attempts) > MOST_ATTEMPTS:
            del log.attempts[0]
            log.forgotten_attempts += 1

    def finish(self) -> JobLog:
        log, counts = self.log, self.log.counts
        kept = ("epoch", "total", "requeue")
        counts.kept = sum(self.kinds[kind] for kind in kept)
        self.kinds[OTHER] = counts.lines - sum(self.kinds.values())
        for kind, count in self.kinds.items():
            if count and kind not in kept:
                (counts.dropped if kind == TORN else counts.ignored)[kind] = count
        log.last_attempt.found = self.search.finish()
        return log


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


# ---- How far a job is, from the log that it is still writing ----


@dataclass(frozen=True)
class Progress:
    """The epoch lines so far, their count of all, the last throughput, the log's last lines."""

    log: Path | None = None
    epoch_lines: list[str] = field(default_factory=list)
    epochs: str = ""  # "2/3"
    throughput: str = ""  # "704.9 img/s"
    tail: list[str] = field(default_factory=list)
    exit_status: int | None = None  # job_end.json's; None while there is none


def read_progress(folder: Path, job_id: str) -> Progress:
    """Read the log of job `job_id` in a job's folder; empty while there is none.

    The log is in log/, that of the tables' job beside its script.
    """
    logs = sorted([*folder.glob(f"log/*_{job_id}.out"), *folder.glob(f"*_{job_id}.out")])
    exit_status = _read_exit_status(folder, job_id)
    if not logs:
        return Progress(exit_status=exit_status)
    try:
        log = read_job_log(logs[-1])
    except UserError:
        return Progress(logs[-1], exit_status=exit_status)
    attempt, last = log.last_attempt, log.last_attempt.last
    return Progress(
        logs[-1],
        [printable(epoch.text) for epoch in attempt.epochs],
        f"{last.epoch}/{last.epochs}" if last else "",
        f"{last.throughput_per_s} {last.unit}" if last else "",
        [printable(line) for _, line in log.tail[-6:]],
        exit_status,
    )


def _read_exit_status(folder: Path, job_id: str) -> int | None:
    """Read how the job's last attempt ended from its job_end.json; None when that is not there."""
    found = {
        split_id(path.parent.name): path
        for path in (folder / "results").glob(f"{job_id}*/job_end.json")
    }
    attempts = [attempt for attempt in found if attempt[0] == int(job_id)]
    last = found[max(attempts)] if attempts else folder / f"job_end_{job_id}.json"
    try:
        return whole_number(read_json(last), "exit_status", last)
    except UserError:
        return None
