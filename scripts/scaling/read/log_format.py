"""How another trainer's log is read: a TOML file per format (experiments/log_formats/README.md).

The schema is checked here, by hand: what reads logs needs only the standard library.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path

from common.errors import UserError
from common.toml import tomllib
from scaling.read.text import find_words

FORMATS = Path(__file__).resolve().parents[3] / "experiments/log_formats"

# Thousands may be parted, 1,897; what no rule of writing numbers allows, 1,5, is not found.
_WHOLE = r"(?:\d{1,3}(?:[,_]\d{3})+(?!\d)|\d+)"
_MACROS = {
    "{number}": rf"[+-]?(?:(?:{_WHOLE}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|(?i:nan|inf(?:inity)?))",
    "{count}": _WHOLE,
    "{time}": r"(?:\d+ days?, )?\d+:\d\d(?::\d\d(?:\.\d+)?)?",
}
RATES = ("rate", "mean_rate")  # in the format's unit, per second
TIMES = ("seconds", "ms", "steps_per_s")  # of what the line times: a step or an epoch
_MEASURES = {*RATES, *TIMES}
_SAYS = {
    "step", "steps", "epoch", "epochs", "loss", "val_loss", "lr", "accuracy_pct",
    "val_accuracy_pct", "batch", "accumulation", "gpus", "nodes", "gpus_per_node", "total_s",
    "total_time",
}  # fmt: skip
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
    one_gpu: re.Pattern | None = None
    repeats: str = _one_of("slowest", "first", "last", default="slowest")
    training: bool = True
    note: str = ""

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What a line must hold one of, to be looked at; most lines of most logs hold none."""
        patterns = (*self.patterns, *self.facts, *self.end, *filter(None, [self.one_gpu]))
        return tuple(sorted({find_word(pattern.pattern) for pattern in patterns}))


@lru_cache
def find_word(expression: str) -> str:
    """Return the longest text that stands in whatever a regular expression finds; '' for none."""
    words = find_words(expression)
    return words[0] if len(words) == 1 else ""


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
        known = sorted(path.stem for path in FORMATS.glob("*.toml"))
        near = difflib.get_close_matches(named, known, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
        raise UserError(f"--log-format {named}: no such format or file; {hint}")
    return load_format(path)


def load_format(path: Path) -> LogFormat:
    """Return the format that a TOML file describes; UserError says in one line what is wrong."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    try:
        return _parse(table)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _parse(table: dict) -> LogFormat:
    values = _check_keys(table)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", values["name"]):
        raise ValueError(f'name = "{values["name"]}": small letters, digits, - and _ alone')
    if not _UNIT.fullmatch(values["unit"]):
        raise ValueError(f'unit = "{values["unit"]}": write what is counted per second: "img/s"')
    for key in ("patterns", "facts", "end"):
        values[key] = tuple(_compile(text, key) for text in values[key])
    values["one_gpu"] = _compile(values["one_gpu"], "one_gpu") if values["one_gpu"] else None
    if not values["patterns"]:
        raise ValueError("patterns is empty: one at least must find a throughput or a time")
    for pattern in values["patterns"]:
        if not _MEASURES & set(pattern.groupindex):
            raise ValueError(
                f"pattern {pattern.pattern!r} has no group that measures: name one of "
                f"{', '.join(sorted(_MEASURES))}, as in (?P<rate>{{number}})"
            )
    groups = set().union(*(p.groupindex for p in values["patterns"] + values["facts"]))
    if groups & set(RATES) and not values["per"]:
        raise ValueError('per is missing: "job" when the rate is of all GPUs, "gpu" when of one')
    if groups & set(TIMES) and not groups & set(RATES) and not values["batch"]:
        raise ValueError(
            'batch is missing: "global" or "gpu" when the log says the samples of a step in a '
            'group `batch`, "option" when it does not'
        )
    if values["batch"] in ("global", "gpu") and "batch" not in groups:
        raise ValueError(f'batch = "{values["batch"]}" needs a group named batch in a pattern')
    return LogFormat(**values)


def _check_keys(table: dict) -> dict:
    known = {each.name: each for each in fields(LogFormat)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
            raise ValueError(f'unknown key "{key}"; {hint}')
    values = {}
    for key, each in known.items():
        if key not in table and each.default is MISSING:
            raise ValueError(f'missing key "{key}"; add it')
        value = table.get(key, each.default)
        kind = str(each.type).partition("[")[0].partition(".")[0]
        if kind == "tuple" and isinstance(value, str):
            value = [value]
        is_text = isinstance(value, bool if kind == "bool" else str)
        is_texts = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        if key in table and not (is_texts if kind == "tuple" else is_text):
            what = {"tuple": "a list of texts", "bool": "true or false"}.get(kind, "text in quotes")
            raise ValueError(f'"{key}" must be {what}, not {value!r}')
        words = each.metadata.get("words", ())
        if words and value and value not in words:
            raise ValueError(f'{key} = "{value}": must be one of {", ".join(words)}')
        values[key] = value
    return values


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
        if group not in _MEASURES | _SAYS:
            near = difflib.get_close_matches(group, [*_MEASURES, *_SAYS], n=1)
            hint = f'did you mean "{near[0]}"?' if near else (
                f"known: {', '.join(sorted(_MEASURES | _SAYS))}"
            )  # fmt: skip
            raise ValueError(f'{key}: unknown group "{group}" in {text!r}; {hint}')
    return pattern
