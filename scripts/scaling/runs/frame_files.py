"""Write tidy frames to files."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from common.errors import UserError
from common.files import write_whole
from scaling.runs.find import find_runs
from scaling.runs.frames import FRAMES

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


def export_frames(
    folder: Path, output: Path, file_format: str, tables: Iterable[str]
) -> list[tuple[Path, int]]:
    """Write the named frames of the runs below a folder; return (file, rows) of each.

    Raises UserError when the folder is not there or a file cannot be written.
    """
    runs = find_runs(folder)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be made: {error.strerror or error}") from error
    written = []
    for name in tables:
        frame = FRAMES[name](runs)
        path = output / f"{name}.{file_format}"
        write_whole(path, to_csv(frame) if file_format == "csv" else to_json(frame))
        written.append((path, len(frame)))
    return written


def to_csv(frame: pd.DataFrame) -> str:
    """Return the frame as CSV: times as ISO 8601 in UTC, a missing value as nothing.

    Text that a spreadsheet would take for a formula is put behind an apostrophe.
    """
    shown = frame.copy()
    for name in shown.columns:
        if name.endswith("_utc"):
            shown[name] = _format_times(shown[name])
        elif shown[name].dtype == "str":
            shown[name] = shown[name].map(_escape)
    return shown.to_csv(index=False)


def to_json(frame: pd.DataFrame) -> str:
    """Return the frame as a JSON list of objects, one a row; a missing value is null."""
    shown = frame.copy()
    for name in shown.columns:
        if name.endswith("_utc"):
            shown[name] = _format_times(shown[name])
    return shown.to_json(orient="records", indent=1, force_ascii=False) + "\n"


def _format_times(times: pd.Series) -> pd.Series:
    return times.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ").where(times.notna(), None)


def _escape(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
