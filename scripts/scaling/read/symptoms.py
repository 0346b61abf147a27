"""What failed jobs print, what it means and what helps: the table in symptoms.ini.

A job that fails prints many such lines, for each process that ends takes others with it; so each
row also says how much its line is worth (Strength). `scaling.read.causes` looks for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cache, cached_property
from pathlib import Path

from scaling.read.text import find_word

TABLE = Path(__file__).with_suffix(".ini")


class State(str, Enum):
    """How a run stands."""

    COMPLETE = "complete"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    CANCELLED = "cancelled"
    RUNNING = "running"
    NEVER_STARTED = "never started"

    def __str__(self) -> str:
        return self.value


class Strength(IntEnum):
    """How much a line says of why the job ended; symptoms.ini explains them."""

    CONSEQUENCE = 1
    QUIET_DEATH = 2
    WEAK = 3
    DEATH = 4
    ROOT = 5
    CERTAIN = 6


CONSEQUENCE, QUIET_DEATH, WEAK, DEATH, ROOT, CERTAIN = Strength
FIX = "fix what this line names, then sbatch again"
RESTART_LOOP = "restart-loop"  # the id of a rule that outcome.py knows


@dataclass(frozen=True)
class Rule:
    """One kind of line: a section of symptoms.ini, which says what its fields mean."""

    id: str
    prints: str
    cause: str
    fix: str
    patterns: tuple[str, ...]
    words: tuple[str, ...]
    strength: Strength
    state: State
    quotes: bool
    ends: str
    ours: bool

    @cached_property
    def _compiled(self) -> re.Pattern:
        return re.compile("|".join(self.patterns), re.IGNORECASE)

    def match(self, line: str, small: str) -> dict[str, str] | None:
        """Return the pattern's groups, None when the line (small: in small letters) is no such."""
        found = any(map(small.__contains__, self.words)) and self._compiled.search(line)
        return {name: text or "" for name, text in found.groupdict().items()} if found else None


@dataclass(frozen=True)
class Signal:
    """What ends a process: its name, as bash and srun call it, what to do, what it says."""

    name: str
    word: str
    fix: str
    strength: Strength


@cache
def load_symptoms() -> tuple[tuple[Rule, ...], dict[int, Signal]]:
    """Return the rules in their order, and number -> signal.

    They are read when they are first needed: most logs and every --help do without.
    """
    from configparser import ConfigParser

    text = TABLE.read_text(encoding="utf-8")
    for name, meaning in re.findall(r"^([A-Z_]+) = (.+)$", text, re.MULTILINE):  # of [texts]
        text = text.replace(f"{{{name}}}", meaning)
    table = ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None)
    table.read_string(text)
    rules, signals = [], {}
    for name in table.sections()[1:]:
        values = dict(table.items(name))
        strength = Strength[values.pop("strength").replace(" ", "_").upper()]
        if number := values.get("number"):
            signals[int(number)] = Signal(name, values["word"], values["fix"], strength)
            continue
        patterns = tuple(values.pop("pattern").strip().split("\n"))
        words = values.pop("words").strip().split("\n")
        if not words[0]:
            words = [find_word(pattern.lower()) for pattern in patterns]
        flags = {flag: values.pop(flag) == "yes" for flag in ("quotes", "ours")}
        state = State(values.pop("state"))
        rules.append(Rule(name, patterns=patterns, words=tuple(words), strength=strength,
                          state=state, **flags, **values))  # fmt: skip
    return tuple(rules), signals


def write_symptoms() -> str:
    """Return the rules as a page of Markdown: what the log prints, the cause, the fix."""
    rows = []
    for rule in sorted(load_symptoms()[0], key=lambda rule: rule.strength == CONSEQUENCE):
        said = rule.match(rule.prints, rule.prints.lower()) or {}
        cells = (rule.prints, rule.cause.format_map(said), rule.fix.format_map(said))
        rows.append("| " + " | ".join(map(_escape, cells)) + " |")
    return _PAGE + "\n".join([*rows, ""])


def _escape(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


_PAGE = """\
# When a job fails: what the log prints, why, and what to do

The last lines of a job's log name the cause. This page has the same rules: it is written by
`python scripts/inspect_log.py --symptoms > experiments/TROUBLESHOOTING.md`. Where a log has
several of these lines, the table's last ones are only what the first cause brought about.

| the log prints | cause | what to do |
|---|---|---|
"""
