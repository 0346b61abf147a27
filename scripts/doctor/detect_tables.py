"""Read tables that Slurm prints under a header: sinfo in any format, sacctmgr's associations."""

import re

from doctor.detect_text import split_lines, split_list

# What sinfo heads its columns with; some are cut to the column's width.
SINFO = {
    "PARTITION": "partition", "NODELIST": "hosts", "HOSTNAMES": "hosts", "NODES": "count",
    "AVAIL": "avail", "TIMELIMIT": "time", "DEFAULTTIME": "default_time", "STATE": "state",
    "CPUS": "cpus", "THREADS": "threads", "S:C:T": "sct", "MEMORY": "memory", "GRES": "gres",
    "AVAIL_FEATURES": "features", "AVAIL_FE": "features", "FEATURES": "features",
    "OVERSUBSCRIBE": "oversubscribe", "OVERSUBS": "oversubscribe", "SHARE": "oversubscribe",
    "JOB_SIZE": "job_size", "REASON": "reason", "NODES(A/I/O/T)": "aiot",
}  # fmt: skip
SACCTMGR = {
    "Account": "account", "Partition": "partition", "QOS": "qos", "Def QOS": "default_qos",
    "User": "user", "Cluster": "cluster",
}  # fmt: skip
# What sacctmgr of 20.11 to 24.11 shows of an association without format=.
DEFAULT_COLUMNS = [
    "Cluster", "Account", "User", "Partition", "Share", "Priority", "GrpJobs", "GrpTRES",
    "GrpSubmit", "GrpWall", "GrpTRESMins", "MaxJobs", "MaxTRES", "MaxTRESPerNode", "MaxSubmit",
    "MaxWall", "MaxTRESMins", "QOS", "Def QOS", "GrpTRESRunMins",
]  # fmt: skip
Row = dict[str, str]


def read_sinfo(text: str) -> list[Row]:
    """Read sinfo's rows, columns named as in SINFO: default, -l, -N, -s, or -o with a header.

    A row whose cells cannot be told apart is left out.
    """
    rows: list[Row] = []
    header, delimiter = "", None
    for line in split_lines(text):
        mark = find_delimiter(line)
        names = [name.strip().upper() for name in line.split(mark)]
        if len(set(names) & set(SINFO)) >= min(2, len(names)) and names:
            header, delimiter = line, mark
        elif header and line.strip() and not line.startswith("CLUSTER:"):
            cells = cut_delimited(line, header, delimiter) if delimiter else cut(line, header)
            row = {SINFO[name.upper()]: cell for name, cell in cells if name.upper() in SINFO}
            rows += [row] if row else []
    return rows


def find_delimiter(line: str) -> str | None:
    """What stands between the columns of a header; None for blanks."""
    return next((mark for mark in "|;\t," if mark in line), None)


def cut_delimited(line: str, header: str, delimiter: str) -> list[tuple[str, str]]:
    """Pair the cells of a row with their columns; nothing when their numbers differ."""
    names = [name.strip() for name in header.split(delimiter)]
    cells = line.split(delimiter)
    if len(cells) != len(names):  # a host list or a GRES has commas of its own
        cells = split_list(line) if delimiter == "," else []
    return list(zip(names, map(str.strip, cells), strict=True)) if len(cells) == len(names) else []


def cut(line: str, header: str) -> list[tuple[str, str]]:
    """Pair the words of a row with the columns of a header that blanks divide.

    A reason takes the words that are too many; else each word goes where it stands below.
    """
    names, words = header.split(), line.split()
    if len(words) > len(names) and "REASON" in names:
        place, extra = names.index("REASON"), len(words) - len(names)
        reason = " ".join(words[place : place + extra + 1])
        words[place : place + extra + 1] = [reason]
    if len(words) == len(names):
        return list(zip(names, words, strict=True))
    columns = [(found[0], found.span()) for found in re.finditer(r"\S+", header)]
    cells: dict[str, str] = {}
    for word in re.finditer(r"\S+", line):
        name = min(columns, key=lambda column: measure_gap(column[1], word.span()))[0]
        cells[name] = f"{cells[name]} {word[0]}" if name in cells else word[0]
    return list(cells.items())


def measure_gap(one: tuple[int, int], other: tuple[int, int]) -> int:
    """How far two spans of a line are apart; negative when they overlap."""
    return max(one[0], other[0]) - min(one[1], other[1])


def read_associations(text: str) -> list[Row]:
    """Read `sacctmgr show associations`: with --parsable, --parsable2, or in columns.

    Without its header (--noheader) only the default columns can be told apart, and those only
    behind bars. A row without a user, where others have one, is an account's and nobody's.
    """
    lines = [line for line in split_lines(text) if line.strip()]
    rows = read_bars(lines) or read_columns(lines)
    named = [row for row in rows if row.get("user")]
    return named or rows


def read_bars(lines: list[str]) -> list[Row]:
    """Read rows that bars divide; with --parsable a bar ends each line, too."""
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if "|" in line]
    start = next((k for k, names in enumerate(cells) if "Account" in names), None)
    if start is not None:
        names, body = cells[start], cells[start + 1 :]
        return name_cells(names, body)
    sizes = (len(DEFAULT_COLUMNS), len(DEFAULT_COLUMNS) + 1)  # --parsable makes one cell more
    return name_cells(DEFAULT_COLUMNS, [row for row in cells if len(row) in sizes])


def read_columns(lines: list[str]) -> list[Row]:
    """Read rows that stand in columns below dashes."""
    for above, line in enumerate(lines[1:]):
        if re.fullmatch(r"[- ]*-{4,}[- ]*", line):
            spans = [found.span() for found in re.finditer(r"-+", line)]
            names = [lines[above][start:end].strip() for start, end in spans]
            rest = lines[above + 2 :]
            return name_cells(names, [[row[start:end] for start, end in spans] for row in rest])
    return []


def name_cells(names: list[str], body: list[list[str]]) -> list[Row]:
    """Name the cells of each row as SACCTMGR does; rows without an account are left out."""
    rows = []
    for cells in body:
        pairs = zip(names, map(str.strip, cells), strict=False)
        row = {SACCTMGR[name]: cell for name, cell in pairs if name in SACCTMGR}
        rows += [row] if row.get("account") else []
    return rows
