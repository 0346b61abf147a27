"""Slurm's times: limits as sbatch and sinfo write them, durations as sacct prints them."""

import math
import re

# No part has more digits than Slurm's 32 bits: longer ones come from damaged files.
_CLOCK = re.compile(r"(?:(\d{1,10})-)?(\d{1,10})(?::(\d{1,10}))?(?::(\d{1,10}))?(\.\d+)?", re.ASCII)
_NO_LIMIT = {"unlimited", "infinite"}


def parse_time(text: str) -> float:
    """Return the seconds of a time; infinity for UNLIMITED and infinite.

    "30" is minutes, "30:00" minutes and seconds, "01:30:00" hours; with days "2-00" is hours and
    "2-12:00" hours and minutes (sbatch(1), --time). sacct's "[DD-[HH:]]MM:SS[.fff]" reads alike.
    Raises ValueError for other text.
    """
    word = text.strip().lower()
    if word in _NO_LIMIT:
        return math.inf
    match = _CLOCK.fullmatch(word)
    if match is None or (match[5] and match[3] is None):
        raise ValueError(f"{text!r} is not a time of Slurm's")
    days, *parts = match.groups()[:4]
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)  # minutes, or minutes and seconds
    hours, minutes, seconds = [*numbers, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds + float(match[5] or 0)


def format_time(seconds: float) -> str:
    """Return a time as Slurm writes limits: 90061 -> `1-01:01:01`, infinity -> `unlimited`."""
    if math.isinf(seconds):
        return "unlimited"
    days, rest = divmod(round(seconds), 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock
