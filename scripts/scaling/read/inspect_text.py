"""An inspection as text for a terminal."""

from collections.abc import Iterator

from common.console import printable
from scaling.read.inspection import Inspection
from scaling.read.line_counts import format_counts

_SHOWN_IDS = 16  # GPUs or ranks named before the rest is only counted


def format_inspection(found: Inspection) -> Iterator[str]:
    """Yield the lines that say what a file is and what was read from it."""
    yield printable(f"{found.path}: {found.kind}" + (f" ({found.reason})" if found.reason else ""))
    counts = format_counts(found.lines, found.kept, found.dropped, found.ignored)
    yield f"  {counts}"
    if found.gpus:
        yield f"  GPUs: {_list(found.gpus)}"
    if found.ranks:
        yield f"  ranks: {_list(found.ranks)}"
    for name, column in found.columns.items():
        unit = f" {column['unit']}" if column["unit"] else ""
        lacking = "".join(
            f", {column[key]} {words}"
            for key, words in (("no_data", "without data"), ("unreadable", "not readable"))
            if key in column
        )
        mean, most = _show(column["mean"]), _show(column["max"])
        yield "  " + printable(
            f"{name}: n {column['n']}, mean {mean}{unit}, max {most}{unit}{lacking}"
        )
    yield from _format_details(found.details)


def _list(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN_IDS]))
    more = len(numbers) - _SHOWN_IDS
    return f"{shown} and {more} more" if more > 0 else shown


def _show(value: float | None) -> str:
    if value is None:
        return "—"
    is_whole = float(value).is_integer() and abs(value) < 1e15
    return f"{value:.0f}" if is_whole else f"{value:.6g}"


def _format_details(details: dict) -> Iterator[str]:
    for at, attempt in enumerate(details.get("attempts", ()), start=1):
        done, of = len(attempt["epochs"]), attempt["of_epochs"] or "?"
        total = attempt["total_training_s"]
        end = f", total training time {total} s" if total is not None else ""
        yield f"  attempt {at}: {done} of {of} epochs{end}"
    if details.get("cause"):
        yield "  " + printable(
            f"cause, line {details['cause']['line']}: {details['cause']['text']}"
        )
    for job in details.get("jobs", ()):
        yield printable(
            f"  job {job['id']}: {job['state']} ({job['slurm_state'] or 'no line of it'})"
        )
    if details.get("world_size") is not None:
        yield f"  world size: {details['world_size']}"
    for note in (*details.get("notes", ()), *details.get("dropped_epochs", ())):
        yield "  " + printable(f"note: {note}")
