"""The line that a trainer prints for each epoch, found in any line of a log."""

import re
from functools import cached_property

from scaling.read.numbers import NUMBER, LoggedNumber
from scaling.read.text import clean_line

# The unit closes the line: without it the last number may be cut, and is not taken.
_EPOCH = re.compile(
    rf"Epoch \[(\d{{1,9}})/(\d{{1,9}})\] LR: ({NUMBER})"
    rf" \| Loss \(train, val\): ({NUMBER}), ({NUMBER})"
    rf" \|((?: (?!Throughput: )[^|\n]{{0,300}}\|){{0,8}}) Throughput: ({NUMBER}) "
    r"((?:img|tokens|samples)/s)"
)
# The same for a line that is nothing else, in printable ASCII, with plain decimals: twice as fast.
_DECIMAL = r"(\d++(?:\.\d*+)?+)"
_PLAIN = re.compile(
    rf"Epoch \[(\d{{1,9}}+)/(\d{{1,9}}+)\] LR: {_DECIMAL} \| Loss \(train, val\): {_DECIMAL}, "
    rf"{_DECIMAL} \|((?: (?!Throughput: )[ -{{}}~]{{0,300}}+\|){{0,8}}+) Throughput: {_DECIMAL} "
    r"((?:img|tokens|samples)/s)(?=\n)"
)
_SCORES = {
    ("train_accuracy_pct", "val_accuracy_pct"): re.compile(
        rf"Accuracy \(train, val\): ({NUMBER})%, ({NUMBER})%"
    ),
    ("train_perplexity", "val_perplexity"): re.compile(
        rf"Perplexity \(train, val\): ({NUMBER}), ({NUMBER})"
    ),
    ("val_bleu",): re.compile(rf"BLEU \(val\): ({NUMBER})"),
}
# `0: ` is srun --label's, `[default0]:` torchrun --tee's, `[rank0]: ` torch's own,
# `[1,0]<stdout>:` Open MPI's --tag-output, `[0] ` mpiexec's -prepend-rank.
_LABEL = re.compile(
    r"\s*(?:(\d+): |\[[A-Za-z_]+(\d+)\]: ?|\[\d+,(\d+)\]<std(?:out|err)>: ?|\[(\d+)\] )"
)
_OTHERS = re.compile(r"Epoch \[\d+/\d+\](?! LR)")


class Epoch:
    """One epoch line. Losses are means over samples, accuracies in %, throughput is global.

    Numbers keep the digits of the log in their `.text`. Scores that the line does not hold
    are None. `text` is the line without what stood around it; `line_number` counts from 1.
    Numbers are made when they are asked for: most lines of most logs are only counted.
    """

    def __init__(self, match: re.Match, line_number: int = 0):
        self.text: str = match[0]
        self.line_number = line_number
        self._found = match.groups()
        self.epoch = int(self._found[0])
        self.epochs = int(self._found[1])

    def __repr__(self) -> str:
        return f"Epoch({self.text!r}, line_number={self.line_number})"

    @property
    def unit(self) -> str:
        return self._found[7]

    @cached_property
    def lr(self) -> LoggedNumber:
        return LoggedNumber(self._found[2])

    @cached_property
    def train_loss(self) -> LoggedNumber:
        return LoggedNumber(self._found[3])

    @cached_property
    def val_loss(self) -> LoggedNumber:
        return LoggedNumber(self._found[4])

    @cached_property
    def throughput_per_s(self) -> LoggedNumber:
        return LoggedNumber(self._found[6])

    @cached_property
    def scores(self) -> dict[str, LoggedNumber]:
        """Name -> value of the scores that stand between the losses and the throughput."""
        found = {}
        for part in self._found[5].split("|"):
            for names, pattern in _SCORES.items():
                if match := pattern.fullmatch(part.strip()):
                    found |= dict(zip(names, map(LoggedNumber, match.groups()), strict=True))
        return found

    @property
    def train_accuracy_pct(self) -> LoggedNumber | None:
        return self.scores.get("train_accuracy_pct")

    @property
    def val_accuracy_pct(self) -> LoggedNumber | None:
        return self.scores.get("val_accuracy_pct")

    @property
    def train_perplexity(self) -> LoggedNumber | None:
        return self.scores.get("train_perplexity")

    @property
    def val_perplexity(self) -> LoggedNumber | None:
        return self.scores.get("val_perplexity")

    @property
    def val_bleu(self) -> LoggedNumber | None:
        return self.scores.get("val_bleu")


def parse_epoch_line(line: str, line_number: int = 0) -> Epoch | None:
    """Return the first whole epoch line that stands in a line of the log, None without one."""
    return next(iter(parse_epoch_lines(line, line_number)), None)


def parse_epoch_lines(line: str, line_number: int = 0) -> list[Epoch]:
    """Return each whole epoch line in a line of the log: ranks may print into one line."""
    if not line.isprintable():
        line = clean_line(line)
    return [Epoch(match, line_number) for match in _EPOCH.finditer(line)]


def match_plain_line(block: str, start: int, line_number: int) -> Epoch | None:
    """Return the epoch line that fills the line at `start` of a block, as nearly all do."""
    match = _PLAIN.match(block, start)
    return Epoch(match, line_number) if match else None


def is_of_others(line: str) -> bool:
    """Whether `Epoch [1/3]` in a line begins something else: a progress bar, another program."""
    return bool(_OTHERS.search(line))


def parse_label(line: str) -> tuple[int, ...]:
    """Return the ranks that a line's launcher labels name, () when it has no label."""
    found: list[int] = []
    end = 0
    while match := _LABEL.match(line, end):
        found.append(int(match[match.lastindex]))
        end = match.end()
    return tuple(found)
