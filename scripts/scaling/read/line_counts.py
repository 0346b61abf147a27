"""Where the lines of a file went, in words."""

from common.console import printable


def format_counts(lines: int, kept: int, dropped: dict[str, int], ignored: dict[str, int]) -> str:
    """Return `120 lines: 117 kept; dropped: 2 no data; ignored: 1 header`."""
    text = f"{lines} line{'s' if lines != 1 else ''}: {kept} kept"
    for word, counts in (("dropped", dropped), ("ignored", ignored)):
        if counts:
            text += f"; {word}: " + ", ".join(f"{n} {reason}" for reason, n in counts.items())
    return printable(text)
