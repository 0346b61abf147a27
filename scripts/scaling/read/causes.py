"""Find the first cause of a failed job in its log, and say what to do about it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from common.console import shorten
from scaling.read.cause_rules import ANY_RULE, RULES, TELLING_WORDS, Rule, Strength
from scaling.read.state import State
from scaling.read.text import LONGEST_LINE_CHARS, clean_line, find_lines

# Our trainers' and job files' own line; `srun: error:` and the like are not.
_OWN_ERROR = re.compile(r"(?:\[rank \d+ on [^\]]+\] )?error: \S|\S+\.py: error: \S")
_OWN_SUMMARY = re.compile(r"(?:Job \S+|First cause|What to do|Why): ")
_TRACEBACK = re.compile(r"(?:Original )?Traceback \(most recent call last\):")
_EXCEPTION = re.compile(
    r"(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Iteration|Warning|Group)"
    r"|(?:[A-Za-z_]\w*\.)+[A-Z]\w*)(?::.*|$)"
)
_WRAPPED = re.compile(r"Caught \w+ in DataLoader worker process")
_EPOCH = re.compile(r"Epoch \[\d+/\d+\] LR: ")

_MEND = "mend what this line names, then sbatch again"
_READ_TRACEBACK = "its traceback, in the log, shows where"


@dataclass(frozen=True)
class Cause:
    """Why a job ended: in words, what to do, and the log line it was read from (from 1)."""

    text: str
    hint: str
    state: State
    strength: Strength
    line_number: int


def find_cause(lines: Iterable[str]) -> Cause | None:
    """Return the first cause that the log shows, None when it shows none.

    A root cause goes before a doubtful one, and both before a consequence (a peer that
    closed its connection, torchrun's ChildFailedError); among equals the first one stands.
    Of Python tracebacks the last line of the first counts. What came before an epoch line
    did not end the job, and what came before a requeue belongs to another attempt.
    """
    return read_evidence(lines)[0]


def read_evidence(lines: Iterable[str]) -> tuple[Cause | None, Cause | None]:
    """Return (first cause, Slurm's own word of how the job ended); either may be None."""
    search = CauseSearch()
    for number, line in enumerate(lines, start=1):
        search.add_line(number, line)
    return search.choose(), search.ending


class CauseSearch:
    """Takes a log in, by lines or blocks, and chooses the cause that it shows."""

    def __init__(self):
        self.lines = 0  # of the blocks taken in
        self.fresh: dict[Strength, Cause] = {}  # the first of each strength
        self.stale: dict[Strength, Cause] = {}  # those that the training outlived
        self.ending: Cause | None = None
        self.in_traceback = False

    def add_block(self, block: str) -> None:
        """Take in a block of text.read_blocks; only the lines that may tell are looked at."""
        small = block.replace("\u0130", "i").lower()  # the one letter that grows in small form
        number, counted, after = self.lines + 1, 0, 0
        for telling in [*find_lines(small, TELLING_WORDS), len(block)]:
            # In a traceback each line tells, by where it stands.
            while (start := after if self.in_traceback else max(after, telling)) < len(block):
                if start > telling:
                    break
                number += block.count("\n", counted, start)
                end = block.find("\n", start)
                end = len(block) if end < 0 else end
                self.add_line(number, block[start : min(end, start + LONGEST_LINE_CHARS)])
                counted, after = start, end + 1
        self.lines += block.count("\n") + (not block.endswith("\n"))

    def add_line(self, number: int, line: str) -> None:
        if "NCCL INFO " not in line:  # by far the most lines, and never an error
            self.add(number, clean_line(line))

    def add(self, number: int, line: str) -> None:
        if _TRACEBACK.match(line.lstrip()):
            self.in_traceback = True
        elif self.in_traceback and (not line or line[0].isspace()):
            return  # the traceback's frames are source text, not messages
        elif self.in_traceback and _EXCEPTION.match(line):
            self.in_traceback = False
            self._take(_judge_exception(number, line))
        elif _OWN_ERROR.match(line):
            self._take_own(_judge_own(number, line))
        elif _EPOCH.search(line):
            # Put behind, not forgotten: an epoch line may be buffered past a later error.
            self.stale, self.fresh, self.ending = self.fresh | self.stale, {}, None
        elif ANY_RULE.search(line) and not _OWN_SUMMARY.match(line):
            rule = _find_rule(line)
            if rule.ends_attempt:
                self.fresh, self.stale = {}, {}
            cause = Cause(rule.words or shorten(line), rule.hint, rule.state, rule.strength, number)
            if rule.ends_job:
                self.ending = self.ending or cause
            self._take(cause)

    def _take(self, cause: Cause) -> None:
        self.fresh.setdefault(cause.strength, cause)

    def _take_own(self, cause: Cause) -> None:
        """Take our own line; it replaces the traceback that it closes, for it names the rank."""
        before = self.fresh.get(cause.strength)
        if before is not None and before.text[:60] in cause.text:
            self.fresh[cause.strength] = replace(before, text=cause.text)
        self._take(cause)

    def choose(self) -> Cause | None:
        order = (
            *((self.fresh, s) for s in (Strength.CERTAIN, Strength.ROOT, Strength.WEAK)),
            *((self.stale, s) for s in (Strength.CERTAIN, Strength.ROOT, Strength.WEAK)),
            *((causes, Strength.CONSEQUENCE) for causes in (self.fresh, self.stale)),
        )
        return next((causes[s] for causes, s in order if s in causes), None)


def _find_rule(line: str) -> Rule | None:
    return next((rule for rule in RULES if rule.pattern.search(line)), None)


def _judge_exception(number: int, line: str) -> Cause:
    """Weigh a traceback's last line; a loader worker's wrapper leaves room for the original."""
    strength = Strength.WEAK if _WRAPPED.search(line) else Strength.ROOT
    rule = _find_rule(line)
    if rule is None:
        return Cause(shorten(line), _READ_TRACEBACK, State.FAILED, strength, number)
    return Cause(shorten(line), rule.hint, rule.state, min(strength, rule.strength), number)


def _judge_own(number: int, line: str) -> Cause:
    """Weigh our own `error:` line: it was written to be the cause, unless it blames a peer."""
    rule = _find_rule(line)
    if rule is None or rule.strength is Strength.WEAK:
        return Cause(shorten(line), _MEND, State.FAILED, Strength.ROOT, number)
    return Cause(shorten(line), rule.hint, rule.state, min(rule.strength, Strength.ROOT), number)
