"""Where the lines of a file went: kept, dropped with a reason, or ignored by a named rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from common.console import printable


@dataclass
class LineCounts:
    """The account of a file's lines: `lines == kept + dropped.total() + ignored.total()`.

    dropped: reason -> lines that should have held a figure and do not; ignored: rule -> lines
    that hold none and need not.
    """

    lines: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def is_whole(self) -> bool:
        """Whether the three counts add up to the lines of the file."""
        return self.lines == self.kept + self.dropped.total() + self.ignored.total()

    def describe(self) -> str:
        """Return `120 lines: 117 kept; dropped: 2 no data; ignored: 1 header`."""
        text = f"{self.lines} line{'s' if self.lines != 1 else ''}: {self.kept} kept"
        for word, reasons in (("dropped", self.dropped), ("ignored", self.ignored)):
            if reasons:
                text += f"; {word}: {list_reasons(reasons)}"
        return printable(text)

    def describe_dropped(self) -> str:
        """Return `3 of 120 lines dropped: 2 no data, 1 NUL bytes`, '' when none was dropped."""
        if not self.dropped:
            return ""
        of = f"{self.dropped.total()} of {self.lines} lines dropped"
        return printable(f"{of}: {list_reasons(self.dropped)}")

    def to_record(self) -> dict:
        """Return the account for JSON."""
        return {
            "lines": self.lines,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "ignored": dict(self.ignored),
        }


def list_reasons(reasons: Counter[str]) -> str:
    """Return `2 no data, 1 NUL bytes`."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())
