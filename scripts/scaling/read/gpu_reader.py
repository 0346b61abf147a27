"""The careful reader of a GPU monitor's CSV: line by line, each kept, dropped or ignored."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common.console import shorten
from common.errors import UserError
from scaling.read.columns import Column
from scaling.read.gpu_columns import (
    ERROR_TEXT,
    Columns,
    parse_header,
    parse_mib,
    says_no_data,
    split_fields,
)
from scaling.read.gpu_headerless import infer_columns
from scaling.read.gpu_series import MOST_REMEMBERED, Rounds, SeriesByGpu
from scaling.read.times import parse_timestamp

# Two rows that each lost a quote would close each other's: then more than commas stand beside.
_WELL_QUOTED = re.compile(r'(?: *+(?:"(?:[^"]|"")*+" *+|[^",]*+)(?:,|$))+')
_SAMPLE_ROWS = 50  # looked at to find the columns of a log without a header
_QUOTED_LINES = 4  # a record's quotes are closed within so many lines, or never

Sample = Callable[[int | None, object, int | float | None, list[str]], None]


class GpuReader:
    """Takes lines in; holds the series of each GPU and where each line went.

    `on_sample(gpu, when, used_mib, fields)` is called for each kept row; set `counts_columns`
    to have all measures counted in `all_measures`. With `is_strict`
    a log whose GPUs cannot be told apart raises UserError; else its rows count for no
    GPU and `untold` says why.
    """

    def __init__(self, path: Path, is_strict: bool = True, on_sample: Sample | None = None):
        self.path = path
        self.is_strict = is_strict
        self.on_sample = on_sample
        self.counts_columns = False
        self.lines = self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.series = SeriesByGpu()
        self.first_text = ""
        self.columns: Columns | None = None
        self.has_header = self.has_units = self.has_dates = False
        self.measures: dict[int, Column] = {}
        self.all_measures: dict[str, Column] = {}
        self.uuids: dict[str, int] = {}
        self.rounds = Rounds(path)
        self.untold = ""
        self.amounts: dict[str, int | float | str] = {}
        self.open_lines: list[str] = []  # of a record whose quotes are not closed yet
        self.unnamed: list[str] = []  # rows before any header

    def add(self, line: str, has_end: bool) -> None:
        """Take one line in."""
        self.lines += 1
        if self.open_lines:
            self._add_to_record(line, has_end)
        elif not line.strip():
            self.ignored["blank"] += 1
        elif not has_end:
            self.dropped["cut: the last line has no end"] += 1
        elif "\0" in line:
            self.dropped["NUL bytes"] += 1
        elif '"' in line and line.count('"') % 2:
            self.open_lines = [line]
        else:
            self._add_record(line)

    def _add_to_record(self, line: str, has_end: bool) -> None:
        """Go on with a record that a quoted line end parts, or give it up for a damaged one."""
        lines = [*self.open_lines, line]
        closes = line.count('"') % 2 == 1
        record = " ".join(lines)
        if closes and has_end and self._fits(record):
            self.open_lines = []
            self.ignored["goes on from the line above, in quotes"] += len(lines) - 1
            self._add_record(record)
        elif closes or len(lines) >= _QUOTED_LINES or not has_end:
            self._reopen(lines, has_end)
        else:
            self.open_lines = lines

    def _fits(self, record: str) -> bool:
        columns = parse_header(record) if self.columns is None else self.columns
        return (
            columns is not None
            and _WELL_QUOTED.fullmatch(record)
            and len(split_fields(record)) == columns.count
        )

    def _reopen(self, lines: list[str], has_end: bool = True) -> None:
        """Drop the line whose quote is never closed; read those after it by themselves."""
        self.open_lines = []
        self.dropped["a quote is not closed"] += 1
        self.lines -= len(lines) - 1
        for line in lines[1:]:
            self.add(line, has_end or line is not lines[-1])

    def _add_record(self, line: str) -> None:
        if columns := parse_header(line):
            self._name_rows(None)
            self.ignored["repeated header" if self.has_header else "header"] += 1
            self.has_header = True
            self._set_columns(columns)
            return
        self.first_text = self.first_text or shorten(line)
        if self.columns is None:
            self.unnamed.append(line)
            if len(self.unnamed) >= _SAMPLE_ROWS:
                self._name_rows(self._infer())
            return
        if reason := self._add_row(line):
            self.dropped[reason] += 1

    def _set_columns(self, columns: Columns) -> None:
        self._end_round()  # its rows are of the columns before
        self.columns, self.has_units, self.amounts = columns, False, {}
        made = columns.make_measures()
        # A header with other columns goes on with the measures of the same name.
        self.measures = {at: self.all_measures.setdefault(m.name, m) for at, m in made.items()}

    def _infer(self) -> Columns | None:
        rows = [split_fields(line) for line in self.unnamed if not ERROR_TEXT.search(line)]
        usual = Counter(map(len, rows)).most_common(1)
        return infer_columns([row for row in rows if len(row) == usual[0][0]]) if rows else None

    def _name_rows(self, columns: Columns | None) -> None:
        """Read the rows that came before any header, with columns inferred from themselves."""
        if self.unnamed and columns is not None:
            self._set_columns(columns)
        for line in self.unnamed:
            if reason := self._add_row(line):
                self.dropped[reason] += 1
        self.unnamed = []

    def _add_row(self, line: str) -> str | None:
        """Take one row in; return why it was dropped, or None."""
        columns, fields = self.columns, split_fields(line)
        if columns is None or len(fields) != columns.count:
            if ERROR_TEXT.search(line) or len(fields) == 1:
                return "error text"
            return "another number of fields" if columns else "no header above it"
        when = None
        if columns.timestamp is not None:
            when = parse_timestamp(fields[columns.timestamp].strip())
            if when is None and self.has_dates:
                return "timestamp not readable"
            self.has_dates = self.has_dates or when is not None
        used_mib = self._read_amount(fields)
        if columns.index is None and columns.uuid is None and not self.untold:
            return self._add_by_order(when, used_mib, fields)
        if isinstance(used_mib, str):
            return used_mib
        gpu = None if self.untold else self._identify(fields)
        if gpu is None and not self.untold:
            return "no GPU index"
        self._keep(gpu, when, used_mib, fields)
        return None

    def _read_amount(self, fields: list[str]) -> int | float | str | None:
        """Return the row's memory.used in MiB, or why it has none; None without the column."""
        columns = self.columns
        if columns.memory is None:
            return None if self._has_measure(fields) else "no data"
        text = fields[columns.memory].strip()
        used_mib = self.parse_amount(text)
        if used_mib == "no data" and (self.counts_columns or self.on_sample):
            return None if self._has_measure(fields) else "no data"  # its other figures count
        if isinstance(used_mib, str):
            return used_mib
        # `26532 MiB` cut behind a digit reads as a smaller, bare number.
        if text[-1] == "B":
            self.has_units = True
        elif self.has_units:
            return "unit missing where other rows have one"
        if columns.total is not None:
            total_mib = self.parse_amount(fields[columns.total].strip())
            if not isinstance(total_mib, str) and used_mib > total_mib:
                return "memory.used above memory.total"
        return used_mib

    def _has_measure(self, fields: list[str]) -> bool:
        others = (at for at in self.measures if at != self.columns.total)
        return any(re.match(r"\s*-?\d", fields[at]) for at in others)

    def parse_amount(self, text: str) -> int | float | str:
        """Return MiB, or why the text is none; a long log has few different ones."""
        amount = self.amounts.get(text)
        if amount is None:
            amount = parse_mib(text, self.columns.units[self.columns.memory])
            if len(self.amounts) < MOST_REMEMBERED:
                self.amounts[text] = amount
        return amount

    def _identify(self, fields: list[str]) -> tuple[int, str] | None:
        columns = self.columns
        uuid = "" if columns.uuid is None else fields[columns.uuid].strip()
        return self.identify(None if columns.index is None else fields[columns.index], uuid)

    def identify(self, index: str | None, uuid: str) -> tuple[int, str] | None:
        """Return (index, uuid) of a row's GPU; None when it names none."""
        if index is None:
            return (self.uuids.setdefault(uuid, len(self.uuids)), uuid) if uuid else None
        text = index.strip().lower().removeprefix("card").removeprefix("gpu")
        is_index = text.isascii() and text.isdigit() and len(text) < 5
        return (int(text), "" if says_no_data(uuid) else uuid) if is_index else None

    def _add_by_order(self, when, used_mib, fields) -> str | None:
        try:
            for gpu, *row in self.rounds.add(when, used_mib, fields):
                self._keep((gpu, ""), *row)
        except UserError as error:
            if self.is_strict:
                raise
            self.untold = str(error)
            for row in self.rounds.give_up():
                self._keep(None, *row)
        return used_mib if isinstance(used_mib, str) else None

    def _end_round(self) -> None:
        for gpu, *row in self.rounds.close():
            self._keep((gpu, ""), *row)

    def _keep(self, gpu: tuple[int, str] | None, when, used_mib, fields: list[str]) -> None:
        self.kept += 1
        if gpu is not None:
            self.series[gpu].add(when, used_mib)
        for at, measure in self.measures.items() if self.counts_columns else ():
            measure.add_text(fields[at])
        if self.on_sample:
            self.on_sample(gpu and gpu[0], when, used_mib, fields)

    def close(self) -> None:
        """Take in what waits for more lines: an open quote, rows without a header, a round."""
        while self.open_lines:
            self._reopen(self.open_lines)
        self._name_rows(self._infer() if self.columns is None and self.unnamed else None)
        self._end_round()
        if self.rounds.dropped:
            self.dropped["incomplete round of GPUs"] += self.rounds.dropped
