"""Read the logs that are what their tools write to the letter, at the speed of pandas.

Nearly all logs are. What is not returns None here, and goes through the careful readers, which
give the same samples for these.
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd

LARGEST_BYTES = 1 << 27  # a larger log is streamed by the careful reader
_NAMES = {
    "memory.used [MiB]": "used_mib",
    "utilization.gpu [%]": "utilization_pct",
    "power.draw [W]": "power_w",
}
_TIME = "%Y/%m/%d %H:%M:%S.%f"
_CPU_HEADER = ["#", "Elapsed", "time", "CPU", "(%)", "Real", "(MB)", "Virtual", "(MB)"]


def read_ordinary_gpu_log(path: Path) -> pd.DataFrame | None:
    """Return the samples of a log that is nvidia-smi's to the letter, else None.

    To the letter: one header, in nvidia-smi's units, each row whole, every figure that is
    drawn a number, times that never go back, an end to the last line.
    """
    try:
        data = path.read_bytes() if path.stat().st_size < 1 << 27 else b""
    except OSError:
        return None
    if not data.endswith(b"\n") or b"\0" in data or b'"' in data or b"\r" in data:
        return None
    names = [
        name.strip() for name in data[: data.index(b"\n")].decode("ascii", "replace").split(",")
    ]
    wanted = {"timestamp", "index", "memory.used [MiB]"}
    if not wanted <= set(names) or len(set(names)) < len(names) or not data.isascii():
        return None
    rows = data.count(b"\n") - 1
    if data.count(b",") != (rows + 1) * (len(names) - 1) or not rows:
        return None
    return _parse(data, names, rows)


def _parse(data: bytes, names: list[str], rows: int) -> pd.DataFrame | None:
    used = ["timestamp", "index", *(name for name in _NAMES if name in names)]
    try:
        frame = pd.read_csv(
            io.BytesIO(data), skipinitialspace=True, header=0, names=names, usecols=used
        )
        times = pd.to_datetime(frame["timestamp"], format=_TIME)
    except ValueError:
        return None
    if len(frame) != rows or not times.is_monotonic_increasing:
        return None
    columns = {name: frame[name].to_numpy() for name in used[1:]}
    if columns["index"].dtype.kind != "i" or any(
        c.dtype.kind not in "iuf" for c in columns.values()
    ):
        return None
    if not all((column >= 0).all() for column in columns.values()):  # nan is not either
        return None
    nothing = np.full(rows, np.nan)
    return pd.DataFrame({
        "gpu": columns["index"],
        "elapsed_s": (times - times.iloc[0]).dt.total_seconds(),
        **{ours: columns.get(theirs, nothing).astype("float64") for theirs, ours in _NAMES.items()},
    })  # fmt: skip


def read_ordinary_cpu_log(path: Path) -> pd.DataFrame | None:
    """Return the samples of a log that is psrecord's to the letter, else None.

    To the letter: its header and then four numbers a row, none below 0, time that always
    goes on, an end to the last line. The first CPU sample is psrecord's 0, which says nothing.
    """
    data = _read(path)
    head, _, rows = data.partition(b"\n")
    if not rows or head.decode("ascii").split() != _CPU_HEADER or b"#" in rows:
        return None
    names = ["elapsed_s", "cpu_pct", "rss_mib", "virtual_mib"]
    try:
        frame = pd.read_csv(io.BytesIO(rows), sep=r"\s+", header=None)
    except ValueError:
        return None
    if len(frame.columns) != 4 or len(frame) != rows.count(b"\n"):
        return None
    if any(t.kind not in "iuf" for t in frame.dtypes) or frame.isna().to_numpy().any():
        return None
    found = frame.set_axis(names, axis=1).astype("float64")[names[:3]]
    steps = found["elapsed_s"].diff().iloc[1:]
    if not (steps > 0).all() or not ((found >= 0) & (found < 1e15)).to_numpy().all():
        return None
    found.loc[0, "cpu_pct"] = float("nan")
    return found


def _read(path: Path) -> bytes:
    """Return the bytes of a file of plain lines, b"" for any other."""
    try:
        data = path.read_bytes() if path.stat().st_size < LARGEST_BYTES else b""
    except OSError:
        return b""
    is_odd = any(mark in data for mark in (b"\0", b'"', b"\r")) or not data.isascii()
    return data if data.endswith(b"\n") and not is_odd else b""
