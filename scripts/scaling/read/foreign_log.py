"""Read the log of a trainer that prints lines of its own, as a log format describes them.

A format is a TOML file (experiments/log_formats/README.md); its schema is checked here, by hand,
since what reads logs needs only the standard library. What comes out is an Attempt like that of any
log: each line with a throughput is a window, and windows stand where epochs do. The first tenth of
them, one at least, is warm-up.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatch
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from math import prod
from pathlib import Path
from statistics import median

from common.console import shorten
from common.counts import LineCounts
from common.errors import UserError
from common.rounding import round_half_even
from common.toml import tomllib
from scaling.read.job_log import OTHER, OTHER_RANK, Attempt, Epoch, parse_epoch_lines
from scaling.read.text import clean_line, find_word, parse_label, read_blocks, read_lines

FORMATS = Path(__file__).resolve().parents[3] / "experiments/log_formats"
MOST_WINDOWS = 100_000
MOST_CHARS = 2000  # of a line: on one of 70,000 a pattern takes half a minute
_LOOKED_AT = 20_000  # lines of a file whose name does not say that it is a log
NOTHING_LIKELY = "no line looks like one"

# ---- Formats -------------------------------------------------------------------------------

# Thousands may be parted, 1,897; what no rule of writing numbers allows, 1,5, is not found.
_WHOLE = r"(?:\d{1,3}(?:[,_]\d{3})+(?!\d)|\d+)"
_MACROS = {
    "{number}": rf"[+-]?(?:(?:{_WHOLE}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|(?i:nan|inf(?:inity)?))",
    "{count}": _WHOLE,
    "{time}": r"(?:\d+ days?, )?\d+:\d\d(?::\d\d(?:\.\d+)?)?",
}
_RATES = {"rate", "mean_rate"}  # in the format's unit, per second
_MEASURES = {*_RATES, "seconds", "ms", "steps_per_s"}  # or of the step or epoch that a line times
_LOSSES = ("loss", "val_loss", "accuracy_pct", "val_accuracy_pct", "lr")
_SIZES = ("gpus", "nodes", "gpus_per_node")
_GROUPS = {*_MEASURES, *_LOSSES, *_SIZES, "step", "steps", "epoch", "epochs", "batch",
           "accumulation", "total_s", "total_time"}  # fmt: skip
_UNIT = re.compile(r"[A-Za-z][A-Za-z0-9 _-]{0,20}/s")


def _one_of(*words: str, default: str = "") -> str:
    return field(default=default, metadata={"words": words})


@dataclass(frozen=True)
class LogFormat:
    """One trainer's log: which lines hold a throughput or a time, and what the numbers are.

    Its fields are the keys of the file. patterns: each line that one of them finds is a window.
    facts: lines that say something else. end: what the trainer prints when it is done, () when it
    prints nothing. per: whose rate it is. batch: what the group `batch` counts, or "option": the
    samples must be given. times: what `seconds` are of. repeats: which of several lines of one step
    counts. training: False for a test of something else, whose numbers are never a training's.
    """

    name: str
    title: str
    unit: str
    patterns: tuple[re.Pattern, ...]
    source: str = ""
    per: str = _one_of("job", "gpu")
    batch: str = _one_of("global", "gpu", "option")
    times: str = _one_of("step", "epoch", default="step")
    facts: tuple[re.Pattern, ...] = ()
    end: tuple[re.Pattern, ...] = ()
    one_gpu: tuple[re.Pattern, ...] = ()
    repeats: str = _one_of("slowest", "first", "last", default="slowest")
    training: bool = True
    note: str = ""

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What a line must hold one of, to be looked at; most lines of most logs hold none."""
        patterns = (*self.patterns, *self.facts, *self.end, *self.one_gpu)
        return tuple({find_word(pattern.pattern) for pattern in patterns})


@lru_cache(maxsize=1)
def load_formats() -> tuple[LogFormat, ...]:
    """Return the formats of experiments/log_formats/, by name; each file there is one."""
    return tuple(load_format(path) for path in sorted(FORMATS.glob("*.toml")))


def find_format(named: str) -> LogFormat:
    """Return the format of a name, or of a file; UserError names the ones that there are."""
    path = FORMATS / f"{named}.toml"
    if named.endswith(".toml") or Path(named).is_file():
        path = Path(named)
    if not path.is_file():
        hint = _hint(named, sorted(path.stem for path in FORMATS.glob("*.toml")))
        raise UserError(f"--log-format {named}: no such format or file; {hint}")
    return load_format(path)


def load_format(path: Path) -> LogFormat:
    """Return the format that a TOML file describes; UserError says in one line what is wrong."""
    try:
        return _parse(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"


def _parse(table: dict) -> LogFormat:
    known = {each.name: each for each in fields(LogFormat)}
    for key in table:
        if key not in known:
            raise ValueError(f'unknown key "{key}"; {_hint(key, known)}')
    values = {}
    for key, each in known.items():
        if key in table:
            values[key] = _check(key, table[key], each.type, each.metadata.get("words", ()))
        elif each.default is MISSING:
            raise ValueError(f'missing key "{key}"; add it')
    format = LogFormat(**values)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", format.name):
        raise ValueError(f'name = "{format.name}": small letters, digits, - and _ alone')
    if not _UNIT.fullmatch(format.unit):
        raise ValueError(f'unit = "{format.unit}": write what is counted per second: "img/s"')
    if not format.patterns:
        raise ValueError("patterns is empty: one at least must find a throughput or a time")
    for pattern in format.patterns:
        if not _MEASURES & set(pattern.groupindex):
            raise ValueError(
                f"pattern {pattern.pattern!r} has no group that measures: name one of "
                f"{', '.join(sorted(_MEASURES))}, as in (?P<rate>{{number}})"
            )
    groups = set().union(*(p.groupindex for p in format.patterns + format.facts))
    if groups & _RATES and not format.per:
        raise ValueError('per is missing: "job" when the rate is of all GPUs, "gpu" when of one')
    if not groups & _RATES and not format.batch:
        raise ValueError(
            'batch is missing: "global" or "gpu" when the log says the samples of a step in a '
            'group `batch`, "option" when it does not'
        )
    if format.batch in ("global", "gpu") and "batch" not in groups:
        raise ValueError(f'batch = "{format.batch}" needs a group named batch in a pattern')
    return format


def _check(key: str, value: object, type_name: str, words: tuple[str, ...]) -> object:
    """Return a key's value as the format holds it; ValueError for one that is not of its type."""
    if type_name.startswith("tuple"):
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f'"{key}" must be a list of texts, not {value!r}')
        return tuple(_compile(text, key) for text in texts)
    if not isinstance(value, bool if type_name == "bool" else str):
        what = "true or false" if type_name == "bool" else "text in quotes"
        raise ValueError(f'"{key}" must be {what}, not {value!r}')
    if words and value not in words:
        raise ValueError(f'{key} = "{value}": must be one of {", ".join(words)}')
    return value


def _compile(text: str, key: str) -> re.Pattern:
    expression = text
    for macro, meaning in _MACROS.items():
        expression = expression.replace(macro, meaning)
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"{key}: {text!r} is no regular expression: {error}") from None
    if pattern.match(""):
        raise ValueError(f"{key}: {text!r} finds an empty line: it must name some words of the log")
    for group in pattern.groupindex:
        if group not in _GROUPS:
            raise ValueError(
                f'{key}: unknown group "{group}" in {text!r}; {_hint(group, sorted(_GROUPS))}'
            )
    return pattern


# ---- What the user says --------------------------------------------------------------------


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
        return told and (int(told.removesuffix("/gpu")), told.endswith("/gpu"))


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


# ---- Is it one? ----------------------------------------------------------------------------

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


def is_trainer_log(path: Path, format: LogFormat | None = None) -> bool:
    """Whether a file is a log with a trainer's lines, ours or a format's, in its beginning."""
    formats = load_formats() if format is None else (format,)
    patterns = [(find_word(p.pattern), p) for each in formats for p in each.patterns]
    for line in _look_at(path):
        if any(word in line and pattern.search(clean_line(line)) for word, pattern in patterns):
            return True
        if format is None and "Throughput: " in line and parse_epoch_lines(line):
            return True
    return False


def looks_timed(path: Path) -> bool:
    """Whether somebody would take a throughput from a line in a file's beginning."""
    return any(_is_likely(line) for line in _look_at(path))


def _is_likely(line: str) -> bool:
    return len(line) < 1000 and bool(_LIKELY.search(clean_line(line)))


def _look_at(path: Path) -> list[str]:
    """Return the first lines; none of a document that quotes a log."""
    try:
        lines = [line[:MOST_CHARS] for line, _ in islice(read_lines(path), _LOOKED_AT)]
    except UserError:
        return []
    is_other = not lines or lines[0].startswith("#!") or any(x.startswith("```") for x in lines)
    return [] if is_other else [line for line in lines if "NCCL INFO" not in line]


# ---- Reading -------------------------------------------------------------------------------

# Of any trainer: the launcher's command line, and the size of the process group.
_GENERAL = (
    ("gpus_per_node", re.compile(r"--nproc[-_]per[-_]node[= ](\d{1,5})\b")),
    ("nodes", re.compile(r"--nnodes[= ](\d{1,5})(?![\d:])")),
    ("gpus", re.compile(r"\bworld[ _-]?size['\"]?\s*[:=]?\s*(\d{1,6})\b", re.IGNORECASE)),
    ("nodes", re.compile(r"\bSLURM_(?:JOB_NUM_NODES|NNODES)\s*[=:]\s*(\d{1,5})\b")),
    ("gpus_per_node",
     re.compile(r"\bSLURM_GPUS_(?:ON|PER)_NODE\s*[=:]\s*(?:[\w.-]+:)?(\d{1,4})\b")),
)  # fmt: skip
_GENERAL_WORDS = ("nproc", "orld", "ORLD", "SLURM_")
_CUT = "cut: the file ends in it"
_NO_NUMBER = "its throughput is no number above 0"
Facts = dict[str, list[str]]  # name -> the numbers that the log says


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


class ForeignLog(Attempt):
    """What a format finds in a log: an Attempt whose epochs are windows, after measure_windows.

    windows: in order, of one process and of the last try. facts: one number where the log does not
    contradict itself. restarts: places of windows after which the training was begun anew or
    continued. `last` sums up: the mean throughput after warm-up, the last losses; it counts no
    epochs.
    """

    is_of_others = True

    def __init__(self, path: Path, format: LogFormat):
        super().__init__()
        self.path, self.format, self.counts = path, format, LineCounts()
        self.windows: list[Window] = []
        self.facts: Facts = {}
        self.restarts: list[int] = []
        self.notes: list[str] = []
        self.label: tuple[int, ...] | None = None  # the lowest one that had a window
        self.ended, self.warmup, self.summary = False, 0, None

    @property
    def last(self) -> Epoch | None:
        return self.summary

    @property
    def has_all_epochs(self) -> bool:
        return self.ended

    @property
    def is_whole(self) -> bool:
        return self.ended

    def find_fact(self, name: str) -> Decimal | None:
        """Return what the log says; UserError when it says different things."""
        told = self.facts.get(name, [])
        if len(told) > 1:
            raise UserError(f"{self.path}: it says {name} {' and '.join(told[:3])}")
        return Decimal(told[0]) if told else None

    def find_scale(self) -> tuple[int | None, int | None]:
        """Return (nodes, GPUs in all) as the log says it, None for what it does not say."""
        gpus, nodes, per_node = map(self.find_fact, _SIZES)
        if gpus is None and per_node is not None and nodes is not None:
            gpus = nodes * per_node
        if gpus == 1:
            nodes = 1
        return nodes and int(nodes), gpus and int(gpus)

    def describe(self) -> str:
        """Say what the throughput is a mean of, with the median beside it."""
        rates = [epoch.throughput_per_s for epoch in self.epochs]
        steady, mean = rates[self.warmup :], show_rate(self.summary.throughput_per_s)
        text, unit = f"log format {self.format.name}: ", self.format.unit
        if steady:
            many = f"{len(steady)} window{'s' if len(steady) != 1 else ''}"
            of = f"{many} after {self.warmup} of warm-up"
            return f"{text}mean {mean}, median {show_rate(median(steady))} {unit} of {of}"
        if len(rates) > 1 or "mean_rate" not in self.windows[-1].told:
            return f"{text}{mean} {unit}, no steady state: all of its windows are warm-up"
        return f"{text}{mean} {unit}, a mean over the whole run, its start included"

    def describe_progress(self) -> str:
        places = zip(("epoch", "step"), self.windows[-1].key, strict=True)
        return (", ".join(f"{name} {at}" for name, at in places if at) or "epoch 0") + " printed"

    # ---- Taking lines in ----

    def add(self, number: int, bare: str, has_end: bool) -> None:
        """Take in a line that may hold something of the format."""
        line, label = clean_line(bare), parse_label(bare)
        found = self._find(line)
        if not found and label and (found := self._find(bare)):
            label = ()  # a step's number looked like a label: `10: loss 2.3`
        is_others = self.label is not None and label > self.label
        if found and is_others:
            self.counts.ignored[OTHER_RANK] += 1
        elif found:
            self._take(number, line, found, label, has_end)
        is_fact = not is_others and self._take_facts(line)
        if any(pattern.search(line) for pattern in self.format.one_gpu):
            _note_fact(self.facts, "gpus", "1")
        end = next(filter(None, (pattern.search(line) for pattern in self.format.end)), None)
        if end:
            self.ended = True
            self._take_total(_read_groups(end) or {})
        self.counts.kept += bool(is_fact or end) and not found

    def _find(self, line: str) -> list[re.Match]:
        found = (list(pattern.finditer(line)) for pattern in self.format.patterns)
        return next(filter(None, found), [])

    def _take(self, number, line: str, found: list[re.Match], label: tuple, has_end: bool) -> None:
        if self.label is not None and label < self.label:
            self.counts.ignored[OTHER_RANK] += self.counts.kept
            self.counts.kept = 0
            self.windows.clear()
        self.label = label
        for match in found:
            told = _read_groups(match)
            is_cut = not has_end and match.end() >= len(line.rstrip())
            if told is not None and not is_cut:
                self._take_total(told)
                self.windows.append(Window(number, line[:400], told))
            elif match is found[-1]:
                self.counts.dropped[_CUT if is_cut else _NO_NUMBER] += 1
                return
        self.counts.kept += 1
        if len(self.windows) > MOST_WINDOWS:
            del self.windows[: MOST_WINDOWS // 2]

    def _take_total(self, told: dict[str, str]) -> None:
        if (total := told.get("total_s")) and Decimal(total).is_finite():
            self.totals["total_training_s"] = Decimal(total)

    def _take_facts(self, line: str) -> bool:
        matches = list(filter(None, (pattern.search(line) for pattern in self.format.facts)))
        for match in matches:
            for name, value in (_read_groups(match) or {}).items():
                if name in _LOSSES and self.windows:
                    self.windows[-1].told[name] = value
                elif name not in (*_LOSSES, "step", "epoch"):
                    _note_fact(self.facts, name, value)
        return bool(matches)

    def finish(self, lines: int, blank: int, general: Facts) -> ForeignLog:
        """Close the account, and leave the windows and facts that count."""
        counts, facts = self.counts, self.facts
        counts.lines, counts.ignored["blank"] = lines, blank
        counts.ignored[OTHER] = (
            lines - counts.kept - counts.dropped.total() - counts.ignored.total()
        )
        counts.ignored = +counts.ignored
        # What the trainer says of its size goes before the launcher's words, which then must fit.
        nodes, per_node = general.get("nodes", []), general.get("gpus_per_node", [])
        fits = len(nodes) == len(per_node) == 1 and "nodes" not in facts
        fits = fits and facts.get("gpus") == [str(int(nodes[0]) * int(per_node[0]))]
        if fits or not {"gpus", "gpus_per_node"} & set(facts):
            self.facts = {**general, **facts}
        self._settle()
        newest = self.windows[-1]
        steps = newest.get("steps") or next(map(Decimal, self.facts.get("steps", [])), None)
        if steps and "epoch" not in newest.told and newest.key[1] >= steps:
            self.ended = True
        return self

    # ---- Which windows count ----

    def _settle(self) -> None:
        """Leave one window per step, in order; of a mean since the start only the last says all."""
        windows = [window for window in self.windows if "mean_rate" not in window.told]
        means = [window for window in self.windows if "mean_rate" in window.told]
        has_rate = any("rate" in window.told for window in windows)
        if means and not has_rate:
            self.windows = [*(w for w in windows if w.seconds is not None), means[-1]]
            return
        windows = [w for w in windows if "rate" in w.told] if has_rate else windows
        back = sum(later.key < window.key for window, later in pairwise(windows))
        is_in_step = back <= max(2, len(windows) // 5)  # else it is of several processes
        groups: dict[tuple[int, ...], list[Window]] = {}
        last, anew = (0, 0), 0
        for window in windows:
            if is_in_step and groups and window.key < last:
                groups = {key: group for key, group in groups.items() if key < window.key}
                self.restarts = [at for at in self.restarts if at < len(groups)] + [len(groups)]
                anew += not groups
            last = window.key
            groups.setdefault(last if any(last) else (*last, window.number), []).append(window)
        if anew:
            self.notes.append(f"its steps began anew ({anew}x): the windows since then count")
        most = max(map(len, groups.values()))
        if most > 1 and self.format.repeats == "slowest":
            self.notes.append(f"up to {most} lines per step, without a label: the slowest counts")
        self.windows = [_choose(groups[key], self.format.repeats) for key in sorted(groups)]


def read_foreign_log(path: Path, formats: Sequence[LogFormat] | None = None) -> ForeignLog:
    """Return what the one format that fits found in a log.

    Raises UserError when none fits, with the line that looks like throughput, and when several
    do. A format of something else than training gives way to one of training.
    """
    path = Path(path)
    readers = [ForeignLog(path, each) for each in (load_formats() if formats is None else formats)]
    general: Facts = {}
    total = blank = 0
    for lines, have_ends in read_blocks(path):
        numbered = list(enumerate(lines, start=total + 1))
        total += len(lines)
        blank += sum(not line or line.isspace() for line in lines)
        text = "\n".join(lines)
        if any(word in text for word in _GENERAL_WORDS):
            for line in lines:
                _take_general_facts(clean_line(line[:MOST_CHARS]), general)
        for reader in readers:
            words = [word for word in reader.format.words if word in text]
            for number, line in numbered if words else ():
                if any(word in line for word in words):  # a line cut here is not cut by the end
                    has_end = have_ends or len(line) > MOST_CHARS
                    reader.add(number, line[:MOST_CHARS], has_end)
    fits = [reader for reader in readers if reader.windows]
    fits = [reader for reader in fits if reader.format.training] or fits
    if len(fits) > 1:
        names = ", ".join(f"{r.format.name} (line {r.windows[0].number})" for r in fits)
        which = " or ".join(f"--log-format {reader.format.name}" for reader in fits)
        raise UserError(f"{path}: several log formats fit: {names}; say which with {which}")
    if not fits:
        raise UserError(f"{path}: {_explain_none(path, readers)}")
    return fits[0].finish(total, blank, general)


def _explain_none(path: Path, readers: list) -> str:
    which = f"log format {readers[0].format.name}" if len(readers) == 1 else "no log format"
    text = f"{which} finds {'no' if len(readers) == 1 else 'a'} throughput in it; "
    numbered = enumerate(read_lines(path), start=1)
    found = next(((number, line) for number, (line, _) in numbered if _is_likely(line)), None)
    if found is None:
        return f"{text}{NOTHING_LIKELY}"
    return (
        f'{text}line {found[0]} "{shorten(clean_line(found[1]), 100)}" looks like one: describe it '
        "in a TOML file, as experiments/log_formats/README.md shows, and give that with "
        "--log-format FILE"
    )


def _take_general_facts(line: str, facts: Facts) -> None:
    per_node, nodes, world, *slurm = (
        (name, match[1]) if (match := pattern.search(line)) else None for name, pattern in _GENERAL
    )
    if per_node and nodes is None and "--nnodes" not in line:
        nodes = ("nodes", "1")  # torchrun's own default; of a variable it says nothing
    for fact in ([per_node, nodes] if per_node else [world]) + slurm:
        if fact:
            _note_fact(facts, *fact)


def _note_fact(facts: Facts, name: str, value: str) -> None:
    told = facts.setdefault(name, [])
    if value not in told and len(told) < 10:
        told.append(value)


def _read_groups(match: re.Match) -> dict[str, str] | None:
    """Return the numbers of a line by their groups; None when what it measures is none."""
    told = {}
    for name, text in match.groupdict().items():
        if text is None:
            continue
        if name == "total_time":
            told["total_s"] = str(_parse_time(text))
        elif name in _SIZES:  # of `[4, 2]`, a mesh of two dimensions, the product
            told[name] = str(prod(map(int, re.findall(r"\d+", text))))
        else:
            told[name] = re.sub(r"(?<=\d)[,_](?=\d)", "", text)
    for name in _MEASURES & set(told):
        with suppress(InvalidOperation):
            if 0 < Decimal(told[name]) < Decimal("inf"):
                continue
        return None
    return told


def _parse_time(text: str) -> Decimal:
    """Return the seconds of `1:02:03`, `02:03` (minutes first) and `1 day, 1:02:03`."""
    days = re.match(r"(\d+) days?, ", text)
    parts = [Decimal(part) for part in text.rpartition(" ")[2].split(":")]
    seconds = sum(part * 60**at for at, part in enumerate(reversed(parts)))
    return seconds + (int(days[1]) * 86400 if days else 0)


def _choose(group: list[Window], repeats: str) -> Window:
    chosen = group[0] if repeats == "first" else group[-1]
    if repeats == "slowest":
        chosen = min(group, key=lambda w: w.rate if w.rate is not None else -w.seconds)
    for window in group:  # losses may come with a later line of the step
        chosen.told = {**{n: window.told[n] for n in _LOSSES if n in window.told}, **chosen.told}
    return chosen


_NAMES = {"lr": "lr", "train_loss": "loss", "val_loss": "val_loss",
          "train_accuracy_pct": "accuracy_pct", "val_accuracy_pct": "val_accuracy_pct"}  # fmt: skip


def measure_windows(
    log: ForeignLog, gpus: int | None, samples: tuple[int, bool] | None = None
) -> ForeignLog:
    """Return the log with its windows as epochs, with the throughput of the whole job.

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
        if is_timed:
            counted, per_s = _count_samples(log, window, gpus, samples), window.get("steps_per_s")
            rate = counted / window.seconds if per_s is None else counted * per_s
        else:
            rate = window.rate * (gpus if format.per == "gpu" else 1)
        epochs.append(_to_epoch(number, window, rate, format))
    log.warmup = -(-len(epochs) // 10)
    restarts = [at for at in log.restarts if log.warmup <= at < len(epochs)]
    log.notes += [format.note] if format.note else []
    if restarts:
        times = f"{len(restarts)} time{'s' if len(restarts) > 1 else ''}"
        log.notes.append(f"restarted {times}: the first window after it is left out")
        kept = [epoch for at, epoch in enumerate(epochs) if at not in restarts]
        epochs = [epoch._replace(epoch=at) for at, epoch in enumerate(kept, start=1)]
    if not log.ended:
        log.notes.append("its log does not say that the training ended")
    log.by_number = {epoch.epoch: epoch for epoch in epochs}
    printed = {}
    for epoch in epochs:
        printed |= {name: epoch.printed[name] for name in _NAMES if name in epoch.printed}
    rates = [epoch.throughput_per_s for epoch in epochs[log.warmup :] or epochs]
    printed["throughput_per_s"] = str(sum(rates) / len(rates))
    log.summary = epochs[-1]._replace(epoch=0, printed=printed)
    return log


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
    printed = {name: window.told[group] for name, group in _NAMES.items() if group in window.told}
    printed["throughput_per_s"] = str(rate)
    if window.seconds is not None and "mean_rate" not in window.told:
        printed["epoch_s" if format.times == "epoch" else "step_s"] = str(window.seconds)
        if format.times == "epoch":
            printed["samples"] = str(round(rate * window.seconds))
    return Epoch(number, 0, format.unit, window.text, window.number, printed)


def show_rate(rate: Decimal) -> str:
    """Return a throughput with four digits at least: 1.859, 704.9, 46096.0."""
    return round_half_even(rate, max(1, 3 - rate.adjusted()))
