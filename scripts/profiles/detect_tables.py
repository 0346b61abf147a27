"""Read tables that Slurm prints under a header: sinfo in any format, sacctmgr's associations."""

import re

from profiles.detect_text import split_lines, split_list

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
    """Read `sacctmgr show associations`, with --parsable2 or as it stands in columns."""
    lines = [line for line in split_lines(text) if line.strip()]
    rows = []
    for position, line in enumerate(lines):
        if "|" in line and "Account" in line.split("|"):
            names = line.split("|")
            body = [other.split("|") for other in lines[position + 1 :]]
        elif re.fullmatch(r"[- ]*-{4,}[- ]*", line) and position:
            spans = [found.span() for found in re.finditer(r"-+", line)]
            names = [lines[position - 1][start:end].strip() for start, end in spans]
            body = [[other[start:end] for start, end in spans] for other in lines[position + 1 :]]
        else:
            continue
        for cells in body:
            cells = dict(zip(names, map(str.strip, cells), strict=False))
            row = {SACCTMGR[name]: cell for name, cell in cells.items() if name in SACCTMGR}
            rows += [row] if row.get("account") else []
        break
    return rows
