"""Read nvidia-smi's CSV log: peak, average and mode of memory.used, per GPU.

Written by `nvidia-smi --query-gpu=timestamp,index,…,memory.used,… --format=csv[,nounits] -l 5`.
Streamed with the standard library only: a long job's log never sits in memory, and the
commands that a job runs at its end start at once. Every line is kept, dropped with a reason
or ignored by a named rule, and the three counts add up to the lines of the file.
"""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from scaling.errors import ScalingError
from scaling.gpu_series import GpuLog, GpuSeries, Rounds, parse_timestamp
from scaling.text import read_lines, shorten

# What nvidia-smi prints in the place of a table (its own wording, several driver versions).
_ERROR_TEXT = re.compile(
    r"NVIDIA-SMI has failed|No devices were found|Failed to initialize NVML|"
    r"Unable to determine the device handle|is not a valid field|GPU is lost|"
    r"Insufficient Permissions|Driver/library version mismatch|command not found",
    re.IGNORECASE,
)
_HEADER_FIELD = re.compile(r"([a-z][a-z0-9_.]*)(?: \[[^\]]*\])?")
_NO_DATA = re.compile(r"\[.*\]|N/A", re.IGNORECASE)  # [N/A], [Not Supported], [Unknown Error]
_AMOUNT = re.compile(r"(\d{1,9})(\.\d{1,6})?(?: ?(MiB|MB))?")


MOST_REMEMBERED = 100_000  # amounts; a GPU has fewer MiB than that


class _Columns(NamedTuple):
    """Where a row's fields stand; None when the log has no such column."""

    count: int
    memory: int
    total: int | None
    index: int | None
    uuid: int | None
    timestamp: int | None


def read_gpu_log(path: Path) -> GpuLog:
    """Return what one node's nvidia-smi CSV says of each GPU's used memory, in MiB.

    Read: any columns in any order with a header that names `memory.used`; units or none;
    repeated headers; CRLF; UTF-16 with a byte order mark. GPUs are told apart by `index`,
    without it by `uuid` in order of appearance, without both by their order in each round.
    Dropped: a last line without its end (a cut number is never a shorter number), rows with
    another number of fields, NUL bytes, error texts, `[N/A]` (no data, never 0).
    A log without any sample is returned with `problem` set. Raises ScalingError when the
    file cannot be read, is not such a CSV, or its GPUs cannot be told apart.
    Source: nvidia-smi --help-query-gpu.
    """
    reader = _Reader(Path(path))
    for line, has_end in read_lines(path):
        reader.add(line, has_end)
    return reader.finish()


class _Reader:
    def __init__(self, path: Path):
        self.path = path
        self.lines = 0
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.series: dict[int, GpuSeries] = {}
        self.first_text = ""
        self.columns: _Columns | None = None
        self.has_units = False
        self.has_dates = False
        self.uuids: dict[str, int] = {}
        self.rounds = Rounds(self.path)
        self.amounts: dict[str, int | float | str] = {}

    def add(self, line: str, has_end: bool) -> None:
        self.lines += 1
        if not line.strip():
            self.ignored["blank"] += 1
        elif not has_end:
            self.dropped["cut: the last line has no end"] += 1
        elif "\0" in line:
            self.dropped["NUL bytes"] += 1
        elif "memory.used" in line and (columns := _parse_header(line)):
            self.ignored["header" if self.columns is None else "repeated header"] += 1
            self.columns, self.has_units = columns, False
        else:
            self.first_text = self.first_text or shorten(line)
            reason = self._add_row(line)
            if reason:
                self.dropped[reason] += 1

    def _add_row(self, line: str) -> str | None:
        """Take one row in; return why it was dropped, or None."""
        columns, fields = self.columns, _split_fields(line)
        if columns is None or len(fields) != columns.count:
            if _ERROR_TEXT.search(line) or len(fields) == 1:
                return "error text"
            return "another number of fields" if columns else "no header above it"
        when = None
        if columns.timestamp is not None:
            when = parse_timestamp(fields[columns.timestamp].strip())
            if when is None and self.has_dates:
                return "timestamp not readable"
            self.has_dates = self.has_dates or when is not None
        used_mib = self._read_amount(fields, columns)
        if columns.index is None and columns.uuid is None:
            return self._add_by_order(when, used_mib)
        if isinstance(used_mib, str):
            return used_mib
        gpu = self._identify(fields, columns)
        if gpu is None:
            return "no GPU index"
        self._keep(gpu, when, used_mib)
        return None

    def _read_amount(self, fields: list[str], columns: _Columns) -> int | float | str:
        """Return the row's memory.used in MiB, or why it has none."""
        text = fields[columns.memory].strip()
        used_mib = self._parse_once(text)
        if isinstance(used_mib, str):
            return used_mib
        # `26532 MiB` cut behind a digit reads as a smaller, bare number.
        if text[-1] == "B":
            self.has_units = True
        elif self.has_units:
            return "unit missing where other rows have one"
        if columns.total is not None:
            total_mib = self._parse_once(fields[columns.total].strip())
            if not isinstance(total_mib, str) and used_mib > total_mib:
                return "memory.used above memory.total"
        return used_mib

    def _parse_once(self, text: str) -> int | float | str:
        """Parse an amount, or remember it: a long log has few different ones."""
        amount = self.amounts.get(text)
        if amount is None:
            amount = _parse_amount(text)
            if len(self.amounts) < MOST_REMEMBERED:
                self.amounts[text] = amount
        return amount

    def _identify(self, fields: list[str], columns: _Columns) -> int | None:
        if columns.index is not None:
            text = fields[columns.index].strip()
            return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else None
        uuid = fields[columns.uuid].strip()
        return self.uuids.setdefault(uuid, len(self.uuids)) if uuid else None

    def _add_by_order(self, when, used_mib) -> str | None:
        for gpu, then, value in self.rounds.add(when, used_mib):
            self._keep(gpu, then, value)
        return used_mib if isinstance(used_mib, str) else None

    def _keep(self, gpu: int, when, used_mib: int | float) -> None:
        self.kept += 1
        if gpu not in self.series:
            self.series[gpu] = GpuSeries(gpu)
        self.series[gpu].add(when, used_mib)

    def finish(self) -> GpuLog:
        for gpu, when, value in self.rounds.close():
            self._keep(gpu, when, value)
        if self.rounds.dropped:
            self.dropped["incomplete round of GPUs"] += self.rounds.dropped
        said_error = bool(_ERROR_TEXT.search(self.first_text))
        if self.columns is None and self.first_text and not said_error:
            raise ScalingError(
                f"{self.path}: not an nvidia-smi CSV: no header line names memory.used; it has "
                f'"{shorten(self.first_text, 80)}"'
            )
        return GpuLog(
            path=self.path,
            gpus=tuple(self.series[gpu].summarise() for gpu in sorted(self.series)),
            lines=self.lines,
            kept=self.kept,
            dropped=dict(self.dropped),
            ignored=dict(self.ignored),
            problem=None if self.series else self._explain_nothing(said_error),
        )

    def _explain_nothing(self, said_error: bool) -> str:
        if said_error:
            return f'nvidia-smi said "{shorten(self.first_text, 120)}"'
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items())
        if not reasons:
            return "it has a header and no sample" if self.columns else "it is empty"
        return f"no sample in it ({reasons})"


def _parse_header(line: str) -> _Columns | None:
    """Return the columns when every field reads as a property name, else None (a row)."""
    matches = [_HEADER_FIELD.fullmatch(f.strip().lower()) for f in _split_fields(line)]
    if not all(matches):
        return None
    names = [match[1] for match in matches]
    if "memory.used" not in names:
        return None

    def find(name: str) -> int | None:
        return names.index(name) if name in names else None

    uuid = find("uuid") if find("uuid") is not None else find("gpu_uuid")
    return _Columns(
        len(names), names.index("memory.used"), find("memory.total"), find("index"), uuid,
        find("timestamp"),
    )  # fmt: skip


def _split_fields(line: str) -> list[str]:
    if '"' in line:
        try:
            return next(csv.reader([line], skipinitialspace=True))
        except (csv.Error, StopIteration):
            return [line]
    return line.split(",")


def _parse_amount(text: str) -> int | float | str:
    """Return MiB (old drivers wrote MB for the same), or why the text is none."""
    match = _AMOUNT.fullmatch(text)
    if match:
        return float(match[1] + match[2]) if match[2] else int(match[1])
    return "no data" if _NO_DATA.fullmatch(text) else "memory.used is no number"
