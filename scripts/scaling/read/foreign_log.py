"""Read the log of a trainer that prints lines of its own, by its format (see log_format.py).

What comes out is an Attempt like that of any log: each line with a throughput is a window, and
windows stand where epochs do. The first tenth of them, one at least, is warm-up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatch
from itertools import islice, pairwise
from pathlib import Path
from statistics import median

from common.console import printable, shorten
from common.counts import LineCounts
from common.errors import UserError
from common.rounding import round_half_even
from scaling.read.job_log import OTHER_RANK, Attempt, Epoch, parse_epoch_lines, parse_label
from scaling.read.log_format import LogFormat, find_format, find_word, load_formats
from scaling.read.text import clean_line, drop_colours, read_lines

MOST_WINDOWS = 100_000
MOST_CHARS = 2000  # of a line: on one of 70,000 a pattern takes half a minute
_LOOKED_AT = 20_000  # lines of a file whose name does not say that it is a log
# Of any trainer: the launcher's command line, and the size of the process group.
_GENERAL = (
    ("gpus_per_node", re.compile(r"--nproc[-_]per[-_]node[= ](\d{1,5})\b")),
    ("nodes", re.compile(r"--nnodes[= ](\d{1,5})(?![\d:])")),
    ("gpus", re.compile(r"\bworld[ _-]?size['\"]?\s*[:=]?\s*(\d{1,6})\b", re.IGNORECASE)),
    ("nodes", re.compile(r"\bSLURM_(?:JOB_NUM_NODES|NNODES)\s*[=:]\s*(\d{1,5})\b")),
    ("gpus_per_node",
     re.compile(r"\bSLURM_GPUS_(?:ON|PER)_NODE\s*[=:]\s*(?:[\w.-]+:)?(\d{1,4})\b")),
)  # fmt: skip
# A line that somebody would take a throughput, or a time per step, from.
_LIKELY = re.compile(
    r"\d\s*[kKM]?\s*(?:im(?:a?g|age)|sample|tok|seq|sentence|step|it|iter|batch|example|frame|word"
    r"|graph|atom|row|record|item)\w*\s*(?:/|p|per )\s*s(?:ec)?"
    r"|(?:samples|tokens|images|steps|iterations|examples)[ _]?(?:per|/)[ _]?s(?:ec)?"
    r"|samplespersec|throughput\D{0,20}\d|\b(?:tps|wps|ips|it/s)\b\D{0,3}\d"
    r"|\d\s*m?s/(?:it|step|iter|batch|epoch)"
    r"|\b(?:epoch|step|iter\w*|batch)\b.*\b(?:time|took|elapsed|duration)\b.{0,30}?\d"
    r"|\b(?:time|took|elapsed|duration)\b.*\b(?:epoch|step|iter\w*|batch)\b.{0,30}?\d",
    re.IGNORECASE,
)
_LOSSES = ("loss", "val_loss", "accuracy_pct", "val_accuracy_pct", "lr")
NOTHING_LIKELY = "no line looks like one"
_CUT = "cut: the file ends in it"
_NO_NUMBER = "its throughput is no number above 0"


@dataclass
class Window:
    """A line with a throughput or a time; numbers as printed, thousands not parted any more."""

    number: int
    text: str
    told: dict[str, str]

    @property
    def key(self) -> tuple[int, int]:
        """(epoch, step): what the line is of; (0, 0) when it does not say."""
        return int(self.told.get("epoch", 0)), int(self.told.get("step", 0))

    def get(self, *names: str) -> Decimal | None:
        return next((Decimal(self.told[name]) for name in names if name in self.told), None)

    @property
    def rate(self) -> Decimal | None:
        return self.get("rate", "mean_rate")

    @property
    def seconds(self) -> Decimal | None:
        """Of the step or epoch that the line times."""
        if (per_s := self.get("steps_per_s")) is not None:
            return 1 / per_s
        ms = self.get("ms")
        return self.get("seconds") if ms is None else ms / 1000


@dataclass
class ForeignLog:
    """What a format found in a log. `windows` are in order, of one process and of the last try.

    facts: name -> the numbers that the log says, one where it does not contradict itself.
    restarts: places of windows after which the training was begun anew or continued.
    """

    path: Path
    format: LogFormat
    counts: LineCounts
    windows: list[Window]
    facts: dict[str, list[str]]
    restarts: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ended: bool = False
    total_s: Decimal | None = None

    def find_fact(self, name: str) -> Decimal | None:
        """Return what the log says; UserError when it says different things."""
        told = self.facts.get(name, [])
        if len(told) > 1:
            raise UserError(f"{self.path}: it says {name} {' and '.join(told[:3])}")
        return Decimal(told[0]) if told else None

    def find_scale(self) -> tuple[int | None, int | None]:
        """Return (nodes, GPUs in all) as the log says it, None for what it does not say."""
        gpus, nodes, per_node = map(self.find_fact, ("gpus", "nodes", "gpus_per_node"))
        if gpus is None and per_node is not None and nodes is not None:
            gpus = nodes * per_node
        if gpus == 1:
            nodes = 1
        return nodes and int(nodes), gpus and int(gpus)


class Windows(Attempt):
    """An Attempt whose epochs are windows of a log that a format describes.

    `last` sums them up: the mean throughput after warm-up, the last losses; it counts no epochs.
    """

    is_of_others = True

    def __init__(self, log: ForeignLog, epochs: list[Epoch], warmup: int, notes: list[str]):
        super().__init__(by_number={epoch.epoch: epoch for epoch in epochs})
        self.log, self.warmup, self.notes = log, warmup, [*log.notes, *notes]
        if log.total_s is not None:
            self.totals["total_training_s"] = log.total_s
        steady = epochs[warmup:] or epochs
        rates = [epoch.throughput_per_s for epoch in steady]
        self.mean_per_s, self.median_per_s = sum(rates) / len(rates), median(rates)
        self.steady = len(epochs[warmup:])
        losses = {
            name: epoch.printed[name]
            for name in ("lr", "train_loss", "val_loss", "train_accuracy_pct", "val_accuracy_pct")
            for epoch in epochs
            if name in epoch.printed
        }
        printed = {**losses, "throughput_per_s": str(self.mean_per_s)}
        newest = epochs[-1]
        self.summary = Epoch(0, 0, newest.unit, newest.text, newest.line_number, printed)

    @property
    def last(self) -> Epoch:
        return self.summary

    @property
    def has_all_epochs(self) -> bool:
        return self.log.ended

    @property
    def is_whole(self) -> bool:
        return self.log.ended

    def describe(self) -> str:
        """Say what the throughput is a mean of, with the median beside it."""
        unit, many = self.summary.unit, "windows" if self.steady != 1 else "window"
        mean, middle = show_rate(self.mean_per_s), show_rate(self.median_per_s)
        if not self.steady:
            what = "a mean over the whole run, its start included"
            if len(self.epochs) > 1 or "mean_rate" not in self.log.windows[-1].told:
                what = "no steady state: all of its windows are warm-up"
            return f"log format {self.log.format.name}: {mean} {unit}, {what}"
        return (
            f"log format {self.log.format.name}: mean {mean}, median {middle} {unit} of "
            f"{self.steady} {many} after {self.warmup} of warm-up"
        )

    def describe_progress(self) -> str:
        epoch, step = self.log.windows[-1].key
        at = f"epoch {epoch}, step {step}" if epoch and step else f"{'step' if step else 'epoch'} "
        return at if epoch and step else f"{at}{step or epoch} printed"


@dataclass(frozen=True)
class LogChoice:
    """What the user says of foreign logs: their format, and GPUs or samples by the log's name."""

    format: LogFormat | None = None
    gpus: tuple[tuple[str, str], ...] = ()
    samples: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(
        cls, named: str | None = None, gpus: Sequence[str] = (), samples: Sequence[str] = ()
    ) -> LogChoice:
        """Return the choice that options make; UserError for one that is not of its form."""
        return cls(
            find_format(named) if named else None,
            tuple(_split(text, "--gpus", r"(\d+x)?\d+", "N or NODESxGPUS") for text in gpus),
            tuple(_split(text, "--samples", r"\d[\d_]*(/gpu)?", "N or N/gpu") for text in samples),
        )

    def find_scale(self, path: Path, run_id: str) -> tuple[int | None, int | None]:
        """Return (nodes, GPUs in all) as given for a log, (None, None) when it is not named."""
        told = _pick(self.gpus, path, run_id)
        if told is None:
            return None, None
        nodes, x, gpus = told.rpartition("x")
        nodes = int(nodes) if x else 1
        return nodes, nodes * int(gpus)

    def find_samples(self, path: Path, run_id: str) -> tuple[int, bool] | None:
        """Return the samples of what a line times, and whether they are of each GPU."""
        told = _pick(self.samples, path, run_id)
        if told is None:
            return None
        number, each, _ = told.partition("/gpu")
        return int(number), bool(each)


def _split(text: str, option: str, form: str, words: str) -> tuple[str, str]:
    log, equals, value = text.rpartition("=")
    if not re.fullmatch(form, value) or not int(re.findall(r"\d+", value)[-1]):
        raise UserError(f"{option} {text}: write {words}, or LOG={words} for one log")
    return (log if equals else "*"), value


def _pick(pairs: Iterable[tuple[str, str]], path: Path, run_id: str) -> str | None:
    """Return the value of the last pair that names the log: by name, path, pattern or job id."""
    names = (path.name, str(path), run_id)
    fits = [value for log, value in pairs if any(fnmatch(name, log) for name in names)]
    return fits[-1] if fits else None


def is_trainer_log(path: Path, format: LogFormat | None = None) -> bool:
    """Whether a file is a log with a trainer's lines, ours or a format's, in its beginning."""
    formats = load_formats() if format is None else (format,)
    patterns = [(find_word(p.pattern), p) for each in formats for p in each.patterns]
    for line in _look_at(path):
        for word, pattern in patterns:
            if word in line and pattern.search(clean_line(line)):
                return True
        if format is None and "Throughput: " in line and parse_epoch_lines(line):
            return True
    return False


def looks_timed(path: Path) -> bool:
    """Whether somebody would take a throughput from a line in a file's beginning."""
    return any(_LIKELY.search(clean_line(line)) for line in _look_at(path) if len(line) < 1000)


def _look_at(path: Path) -> list[str]:
    """Return the first lines without colours; none of a document that quotes a log."""
    try:
        head = islice(read_lines(path), _LOOKED_AT)
        lines = [drop_colours(line[:MOST_CHARS]) for line, _ in head]
    except UserError:
        return []
    is_other = not lines or lines[0].startswith("#!") or any(x.startswith("```") for x in lines)
    return [] if is_other else [line for line in lines if "NCCL INFO" not in line]


# ---- Reading -------------------------------------------------------------------------------


def read_foreign_log(path: Path, formats: Sequence[LogFormat] | None = None) -> ForeignLog:
    """Return what the one format that fits found in a log.

    Raises UserError when none fits, with the lines that look like throughput, and when several
    do. A format of something else than training gives way to one of training.
    """
    path = Path(path)
    readers = [_Reader(format) for format in (load_formats() if formats is None else formats)]
    facts: dict[str, list[str]] = {}
    blank = number = 0
    for number, (whole, has_end) in enumerate(read_lines(path), start=1):
        line = drop_colours(whole[:MOST_CHARS])
        has_end = has_end or len(whole) > MOST_CHARS  # cut here, not by the file's end
        if "nproc" in line or "orld" in line or "ORLD" in line or "SLURM_" in line:
            _take_general_facts(clean_line(line), facts)
        blank += not line or line.isspace()
        for reader in readers:
            for word in reader.format.words:
                if word in line:
                    reader.add(number, line, has_end)
                    break
    fits = [reader for reader in readers if reader.windows]
    fits = [reader for reader in fits if reader.format.training] or fits
    if len(fits) > 1:
        names = ", ".join(f"{r.format.name} (line {r.windows[0].number})" for r in fits)
        which = " or ".join(f"--log-format {reader.format.name}" for reader in fits)
        raise UserError(f"{path}: several log formats fit: {names}; say which with {which}")
    if not fits:
        raise UserError(f"{path}: {_explain_none(path, readers)}")
    return fits[0].finish(path, number, blank, facts)


def _explain_none(path: Path, readers: list) -> str:
    which = f"log format {readers[0].format.name}" if len(readers) == 1 else "no log format"
    text = f"{which} finds {'no' if len(readers) == 1 else 'a'} throughput in it; "
    lines = ((at, clean_line(line)) for at, (line, _) in enumerate(read_lines(path), start=1))
    likely = islice((x for x in lines if len(x[1]) < 1000 and _LIKELY.search(x[1])), 100)
    shapes: dict[str, tuple[int, str]] = {}
    for number, line in likely:
        shapes.setdefault(re.sub(r"[\d.,]+", "0", line)[:60], (number, line))
    if not shapes:
        return f"{text}{NOTHING_LIKELY}"
    first = [*shapes.values()][:2]
    shown = ", ".join(f'{at} "{shorten(printable(line), 100)}"' for at, line in first)
    return (
        f"{text}line {shown} looks like one: describe it in a TOML file, as "
        "experiments/log_formats/README.md shows, and give that with --log-format FILE"
    )


def _take_general_facts(line: str, facts: dict[str, list[str]]) -> None:
    per_node, nodes, world, *slurm = (
        (name, match[1]) if (match := pattern.search(line)) else None for name, pattern in _GENERAL
    )
    if per_node and nodes is None and "--nnodes" not in line:
        nodes = ("nodes", "1")  # torchrun's own default; of a variable it says nothing
    for fact in ([per_node, nodes] if per_node else [world]) + slurm:
        if fact:
            _note_fact(facts, *fact)


def _note_fact(facts: dict[str, list[str]], name: str, value: str) -> None:
    told = facts.setdefault(name, [])
    if value not in told and len(told) < 10:
        told.append(value)


class _Reader:
    """Takes the lines of a log in, as one format reads them."""

    def __init__(self, format: LogFormat):
        self.format = format
        self.windows: list[Window] = []
        self.facts: dict[str, list[str]] = {}
        self.label: tuple[int, ...] | None = None  # the lowest one that had a window
        self.kept = self.others = 0  # lines, and those of other ranks
        self.dropped: Counter[str] = Counter()
        self.ended = False
        self.total_s: Decimal | None = None

    def add(self, number: int, bare: str, has_end: bool) -> None:
        """Take in a line without colours that may hold something of the format."""
        clean, label = clean_line(bare), parse_label(bare)
        found = self._find(clean)
        if not found and label and (found := self._find(bare)):
            label = ()  # a step's number looked like a label: `10: loss 2.3`
        if found:
            self._take(number, clean, found, label, has_end)
        is_others = self.label is not None and label > self.label
        is_fact = not is_others and self._take_facts(clean)
        if self.format.one_gpu and self.format.one_gpu.search(clean):
            _note_fact(self.facts, "gpus", "1")
        end = next(filter(None, (pattern.search(clean) for pattern in self.format.end)), None)
        if end:
            self.ended = True
            self._take_total(_read_groups(end) or {})
        self.kept += bool(is_fact or end) and not found

    def _find(self, line: str) -> list[re.Match]:
        found = (list(pattern.finditer(line)) for pattern in self.format.patterns)
        return next(filter(None, found), [])

    def _take(self, number, line: str, found: list[re.Match], label: tuple, has_end: bool) -> None:
        if self.label is not None and label > self.label:
            self.others += 1
            return
        if self.label is not None and label < self.label:
            self.others, self.kept = self.others + self.kept, 0
            self.windows.clear()
        self.label = label
        for match in found:
            told = _read_groups(match)
            is_cut = not has_end and match.end() >= len(line.rstrip())
            if told is not None and not is_cut:
                self._take_total(told)
                self.windows.append(Window(number, line[:400], told))
            elif match is found[-1]:
                self.dropped[_CUT if is_cut else _NO_NUMBER] += 1
                return
        self.kept += 1
        if len(self.windows) > MOST_WINDOWS:
            del self.windows[: MOST_WINDOWS // 2]

    def _take_total(self, told: dict[str, str]) -> None:
        if (total := told.get("total_s")) and Decimal(total).is_finite():
            self.total_s = Decimal(total)

    def _take_facts(self, line: str) -> bool:
        is_taken = False
        for pattern in self.format.facts:
            if not (match := pattern.search(line)):
                continue
            is_taken = True
            for name, value in (_read_groups(match) or {}).items():
                if name in _LOSSES:
                    if self.windows:
                        self.windows[-1].told[name] = value
                elif name not in ("step", "epoch"):
                    _note_fact(self.facts, name, value)
        return is_taken

    def finish(self, path: Path, lines: int, blank: int, facts: dict) -> ForeignLog:
        rest = lines - blank - self.kept - self.others - self.dropped.total()
        ignored = Counter({"blank": blank, OTHER_RANK: self.others, "other output": rest})
        counts = LineCounts(lines, self.kept, self.dropped, +ignored)
        # What the trainer says of its size goes before the launcher's words, which then must fit.
        pair = [*facts.get("nodes", []), *facts.get("gpus_per_node", [])]
        is_pair = len(facts.get("nodes", [])) == 1 and len(pair) == 2 and "nodes" not in self.facts
        fits = is_pair and self.facts.get("gpus") == [str(int(pair[0]) * int(pair[1]))]
        general = facts if fits or not {"gpus", "gpus_per_node"} & set(self.facts) else {}
        log = ForeignLog(path, self.format, counts, self.windows, {**general, **self.facts})
        log.ended, log.total_s = self.ended, self.total_s
        _settle(log)
        newest = log.windows[-1]
        steps = newest.get("steps") or next(map(Decimal, log.facts.get("steps", [])), None)
        if steps and "epoch" not in newest.told and newest.key[1] >= steps:
            log.ended = True
        return log


def _read_groups(match: re.Match) -> dict[str, str] | None:
    """Return the numbers of a line by their groups; None when what it measures is none."""
    told = {}
    for name, text in match.groupdict().items():
        if text is None:
            continue
        if name == "total_time":
            told["total_s"] = str(_parse_time(text))
        elif name in ("gpus", "nodes", "gpus_per_node"):
            product = 1  # of `[4, 2]`, a mesh of two dimensions
            for number in re.findall(r"\d+", text):
                product *= int(number)
            told[name] = str(product)
        else:
            told[name] = re.sub(r"(?<=\d)[,_](?=\d)", "", text)
    for name in ("rate", "mean_rate", "seconds", "ms", "steps_per_s"):
        with suppress(InvalidOperation):
            if name not in told or 0 < Decimal(told[name]) < Decimal("inf"):
                continue
        return None
    return told


def _parse_time(text: str) -> Decimal:
    """Return the seconds of `1:02:03`, `02:03` (minutes first) and `1 day, 1:02:03`."""
    days = re.match(r"(\d+) days?, ", text)
    parts = [Decimal(part) for part in text.rpartition(" ")[2].split(":")]
    seconds = sum(part * 60**at for at, part in enumerate(reversed(parts)))
    return seconds + (int(days[1]) * 86400 if days else 0)


# ---- Which windows count -------------------------------------------------------------------


def _settle(log: ForeignLog) -> None:
    """Leave one window per step, in order; of a mean since the start only the last says all."""
    windows = [w for w in log.windows if "mean_rate" not in w.told]
    has_rate = any("rate" in w.told for w in windows)
    means = [w for w in log.windows if "mean_rate" in w.told]
    if means and not has_rate:
        times = [w for w in windows if w.seconds is not None]
        log.windows = [*times, means[-1]] if times else means[-1:]
        return
    windows = [w for w in windows if "rate" in w.told] if has_rate else windows
    keys = [window.key for window in windows]
    back = sum(after < before for before, after in pairwise(keys))
    if back > max(2, len(keys) // 5):  # processes that are not in step with one another
        by_key: dict[tuple, list[Window]] = {}
        for window in windows:
            by_key.setdefault(window.key, []).append(window)
        groups = [by_key[key] for key in sorted(by_key)]
    else:
        groups, anew = [], 0
        for window in windows:
            if groups and window.key != (0, 0) and window.key == groups[-1][0].key:
                groups[-1].append(window)
                continue
            if groups and window.key < groups[-1][0].key:
                groups = [group for group in groups if group[0].key < window.key]
                log.restarts = [at for at in log.restarts if at < len(groups)] + [len(groups)]
                anew += not groups
            groups.append([window])
        if anew:
            log.notes.append(f"its steps began anew ({anew}x): the windows since then count")
    most = max(map(len, groups))
    if most > 1 and log.format.repeats == "slowest":
        log.notes.append(f"up to {most} lines per step, without a label: the slowest counts")
    log.windows = [_choose(group, log.format.repeats) for group in groups]


def _choose(group: list[Window], repeats: str) -> Window:
    chosen = group[0] if repeats == "first" else group[-1]
    if repeats == "slowest":
        chosen = min(group, key=lambda w: w.rate if w.rate is not None else -w.seconds)
    for window in group:  # losses may come with a later line of the step
        chosen.told = {**{n: window.told[n] for n in _LOSSES if n in window.told}, **chosen.told}
    return chosen


def measure_windows(
    log: ForeignLog, gpus: int | None, samples: tuple[int, bool] | None = None
) -> Windows:
    """Return a log's windows with the throughput of the whole job.

    gpus: all of the job's; samples: as LogChoice.find_samples returns them. Raises UserError that
    names the option which settles what the log does not say.
    """
    format = log.format
    if not format.training:
        raise UserError(f"{log.path}: {format.title}: it has no throughput of a training")
    windows = [window for window in log.windows if window.rate is not None]
    is_timed = not windows
    if format.per == "gpu" and not is_timed:
        _need_gpus(log, gpus, f"prints the {format.unit} of one GPU")
    epochs = []
    for number, window in enumerate(windows or log.windows, start=1):
        if not is_timed:
            rate = window.rate * (gpus if format.per == "gpu" else 1)
        else:
            counted, per_s = _count_samples(log, window, gpus, samples), window.get("steps_per_s")
            rate = counted / window.seconds if per_s is None else counted * per_s
        epochs.append(_to_epoch(number, window, rate, format))
    warmup = -(-len(epochs) // 10)
    restarts = [at for at in log.restarts if warmup <= at < len(epochs)]
    notes = [format.note] if format.note else []
    if restarts:
        times = f"{len(restarts)} time{'s' if len(restarts) > 1 else ''}"
        notes.append(f"restarted {times}: the first window after it is left out")
        kept = [epoch for at, epoch in enumerate(epochs) if at not in restarts]
        epochs = [epoch._replace(epoch=at) for at, epoch in enumerate(kept, start=1)]
    if not log.ended:
        notes.append("its log does not say that the training ended")
    return Windows(log, epochs, warmup, notes)


def _need_gpus(log: ForeignLog, gpus: int | None, why: str) -> None:
    if gpus is None:
        raise UserError(
            f"{log.path}: {log.format.name} {why}, and its number of GPUs is unknown: add "
            f"--gpus {log.path.name}=N"
        )


def _count_samples(
    log: ForeignLog, window: Window, gpus: int | None, samples: tuple[int, bool] | None
) -> Decimal:
    """Return the samples of what a line times, of all GPUs."""
    if samples is not None:
        number, is_each = samples
        if is_each:
            _need_gpus(log, gpus, "is given the samples of one GPU")
        return Decimal(number * gpus if is_each else number)
    batch = window.get("batch")
    if log.format.batch != "option" and batch is None:
        batch = log.find_fact("batch")
    if batch is None:
        raise UserError(
            f"{log.path}: {log.format.name} times each {log.format.times}, and the samples in one "
            f"are unknown: add --samples {log.path.name}=N (of all GPUs), or =N/gpu"
        )
    if log.format.batch == "gpu":
        _need_gpus(log, gpus, "says the samples of one GPU")
        batch *= gpus * (log.find_fact("accumulation") or 1)
    return batch


def _to_epoch(number: int, window: Window, rate: Decimal, format: LogFormat) -> Epoch:
    names = {
        "lr": "lr", "loss": "train_loss", "val_loss": "val_loss",
        "accuracy_pct": "train_accuracy_pct", "val_accuracy_pct": "val_accuracy_pct",
    }  # fmt: skip
    printed = {name: window.told[group] for group, name in names.items() if group in window.told}
    printed["throughput_per_s"] = str(rate)
    if window.seconds is not None and "mean_rate" not in window.told:
        printed["epoch_s" if format.times == "epoch" else "step_s"] = str(window.seconds)
        if format.times == "epoch":
            printed["samples"] = str(round(rate * window.seconds))
    return Epoch(number, 0, format.unit, window.text, window.number, printed)


def show_rate(rate: Decimal) -> str:
    """Return a throughput with four digits at least: 1.859, 704.9, 46096.0."""
    return round_half_even(rate, max(1, 3 - rate.adjusted()))
