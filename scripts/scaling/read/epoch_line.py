"""The line that a trainer prints for each epoch, found in any line of a log."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

from scaling.read.text import clean_line

NUMBER = r"[+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|nan|inf)"
# The unit closes the line: without it the last number may be cut, and is not taken.
_RATE = rf" Throughput: (?P<throughput_per_s>{NUMBER}) (?P<unit>(?:img|tokens|samples)/s)"
_EPOCH = re.compile(
    rf"Epoch \[(?P<epoch>\d{{1,9}})/(?P<epochs>\d{{1,9}})\] LR: (?P<lr>{NUMBER})"
    rf" \| Loss \(train, val\): (?P<train_loss>{NUMBER}), (?P<val_loss>{NUMBER})"
    r" \|(?P<between>(?: (?!Throughput: )[^|\n]{0,300}\|){0,8})"
    rf"{_RATE}"
)
# Of a trainer of the reader's own: all but the epoch and the throughput may be missing. What
# stands between must be names with numbers, so that no torn line is taken for one.
_SHORT = re.compile(
    r"Epoch \[(?P<epoch>\d{1,9})/(?P<epochs>\d{1,9})\]"
    rf"(?: LR: (?P<lr>{NUMBER})(?: \|)?)?(?: \|)?"
    rf"(?P<between>(?: [A-Za-z][\w (),/-]{{0,60}}: {NUMBER}%?(?:, {NUMBER}%?){{0,3}} \|){{0,8}})"
    rf"{_RATE}"
)
# What stands between the losses and the throughput: `Accuracy (train, val): 2.16%, 0.98%` holds
# train_accuracy_pct and val_accuracy_pct, `BLEU (val): 23.4` val_bleu; any score is read so.
_SCORE = re.compile(
    rf"(?P<name>[A-Za-z][\w -]{{0,40}}) \((?P<of>train, val|train|val)\): "
    rf"(?P<first>{NUMBER})(?P<sign>%?)(?:, (?P<second>{NUMBER})(?P=sign))?"
)
_LOSS = re.compile(rf"Loss: ({NUMBER})")  # of the training
_PRINTED = ("train_accuracy_pct", "val_accuracy_pct")  # by a format of others, as groups
# `0: ` is srun --label's, `[default0]:` torchrun --tee's, `[rank0]: ` torch's own,
# `[1,0]<stdout>:` Open MPI's --tag-output, `[0] ` mpiexec's -prepend-rank.
_LABEL = re.compile(
    r"\s*(?:(\d+): |\[[A-Za-z_]+(\d+)\]: ?|\[\d+,(\d+)\]<std(?:out|err)>: ?|\[(\d+)\] )"
)
MAY_BEGIN_LABEL = " [0123456789"
_OTHERS = re.compile(r"Epoch \[\d+/\d+\](?! LR|(?: \|)? Throughput: )")
FIGURES = ("lr", "train_loss", "val_loss", "throughput_per_s")


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
    printed: dict[str, str]  # FIGURES as printed, and what stands `between` them

    @property
    def lr(self) -> Decimal | None:
        return self.get("lr")

    @property
    def train_loss(self) -> Decimal | None:
        return self.get("train_loss")

    @property
    def val_loss(self) -> Decimal | None:
        return self.get("val_loss")

    @property
    def throughput_per_s(self) -> Decimal:
        return Decimal(self.printed["throughput_per_s"])

    @property
    def scores(self) -> dict[str, Decimal]:
        """Those that the line has: train_accuracy_pct, val_accuracy_pct, val_bleu …"""
        found = {name: Decimal(self.printed[name]) for name in _PRINTED if name in self.printed}
        for part in (self.printed.get("between") or "").split("|"):
            if match := _LOSS.fullmatch(part.strip()):
                found["train_loss"] = Decimal(match[1])
            elif match := _SCORE.fullmatch(part.strip()):
                found |= _name_scores(match)
        return found

    def get(self, name: str) -> Decimal | None:
        """Return a figure or score by its name, None when the line does not hold it."""
        if (text := self.printed.get(name)) is not None:
            return Decimal(text)
        return None if name == "throughput_per_s" else self.scores.get(name)


def _name_scores(match: re.Match) -> dict[str, Decimal]:
    name = match["name"].lower().replace(" ", "_") + ("_pct" if match["sign"] else "")
    sets = match["of"].split(", ")
    values = [value for value in (match["first"], match["second"]) if value is not None]
    if len(values) != len(sets):
        return {}
    return {f"{of}_{name}": Decimal(value) for of, value in zip(sets, values, strict=True)}


def parse_epoch_line(line: str, line_number: int = 0) -> Epoch | None:
    """Return the first whole epoch line that stands in a line of the log, None without one."""
    return next(iter(parse_epoch_lines(line, line_number)), None)


def parse_epoch_lines(line: str, line_number: int = 0) -> list[Epoch]:
    """Return each whole epoch line in a line of the log: ranks may print into one line."""
    if not line.isprintable():
        line = clean_line(line)
    found = list(_EPOCH.finditer(line)) or list(_SHORT.finditer(line))
    return [
        Epoch(int(m["epoch"]), int(m["epochs"]), m["unit"], m[0], line_number, m.groupdict())
        for m in found
    ]


def is_of_others(line: str) -> bool:
    """Whether `Epoch [1/3]` in a line begins something else: a progress bar, another program."""
    return bool(_OTHERS.search(line))


def parse_label(line: str) -> tuple[int, ...]:
    """Return the ranks that a line's launcher labels name, () when it has no label."""
    found: list[int] = []
    end = 0
    if line[:1] not in MAY_BEGIN_LABEL:
        return ()
    while match := _LABEL.match(line, end):
        found.append(int(match[match.lastindex]))
        end = match.end()
    return tuple(found)
