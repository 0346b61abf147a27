"""Which column of a psrecord log is which. Source: psrecord 1.4, main.py."""

import re

# psrecord's titles, in both formats and of its older releases -> (our name, unit).
TITLES = {
    "elapsed time": ("elapsed_s", "s"),
    "elapsed_time": ("elapsed_s", "s"),
    "cpu (%)": ("cpu_pct", "%"),
    "cpu": ("cpu_pct", "%"),
    "real (mb)": ("rss_mib", "MiB"),
    "mem_real": ("rss_mib", "MiB"),
    "virtual (mb)": ("virtual_mib", "MiB"),
    "mem_virtual": ("virtual_mib", "MiB"),
    "nproc": ("processes", ""),
    "timestamp": ("timestamp", ""),
    "read count": ("read_count", ""),
    "write count": ("write_count", ""),
    "read bytes": ("read_bytes", "B"),
    "write bytes": ("write_bytes", "B"),
    "read_count": ("read_count", ""),
    "write_count": ("write_count", ""),
    "read_bytes": ("read_bytes", "B"),
    "write_bytes": ("write_bytes", "B"),
}
NEEDED = {"elapsed_s", "cpu_pct", "rss_mib"}
_PLAIN_TITLE = re.compile("|".join(re.escape(t) for t in TITLES if " " in t) + "|timestamp", re.I)
# Three or four numbers of 12 characters.
_PLAIN_ROW = re.compile(r"(?=.{38}$|.{51}$)( *\d+\.\d{3})(?: +\d+\.\d{3}){2,3}")
PLAIN_ORDER = ("elapsed_s", "cpu_pct", "rss_mib", "virtual_mib")


def is_bare_log(rows: list[str]) -> bool:
    """Whether rows are psrecord's plain ones, known by their fixed width, without a header."""
    matches = [_PLAIN_ROW.fullmatch(row) for row in rows]
    elapsed_s = [float(match[1]) for match in matches if match]
    return len(elapsed_s) >= 2 and 2 * len(elapsed_s) > len(rows) and elapsed_s[0] <= elapsed_s[-1]


def parse_header(line: str) -> tuple[str, ...] | None:
    """Return our names of a psrecord header's columns, None for any other line.

    A time before the header (`ts`, a logger's prefix) and a column of timestamps are left
    out: what stands before a row's numbers is read as its time.
    """
    if "," in line:
        titles = [title.strip().lower() for title in line.lstrip("# ").split(",")]
        if not all(title in TITLES for title in titles):
            return None
    else:
        titles = [title.lower() for title in _PLAIN_TITLE.findall(line)]
    names = tuple(name for name, _ in (TITLES[title] for title in titles) if name != "timestamp")
    is_one = set(names) >= NEEDED and len(set(names)) == len(names)
    return names if is_one else None
