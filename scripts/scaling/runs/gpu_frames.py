"""The samples of a run's GPU logs as records, with times in UTC where that can be known."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from common.errors import UserError
from scaling.read.gpu_columns import Columns, parse_mib
from scaling.read.gpu_log import read_gpu_samples
from scaling.read.times import seconds_between
from scaling.runs.own_gpus import find_own_uuids
from scaling.runs.run_record import Run

_QUARTER_S = 15 * 60  # every time zone is a whole number of these from UTC
_FARTHEST = timedelta(hours=15)
# Our column -> the names that the tools give the figure, the most exact first.
_FIGURES = {
    "utilization_pct": ("utilization.gpu", "gfx_activity", "gfx", "gpu use"),
    "power_w": ("power.draw", "power.draw.instant", "power.draw.average", "power_usage",
                "socket_power", "average graphics package power",
                "current socket graphics package power"),
    "temperature_c": ("temperature.gpu", "hotspot_temperature", "hotspot",
                      "temperature (sensor junction)"),
    "sm_clock_mhz": ("clocks.sm", "clocks.current.sm", "gfx_clock", "gfx_clk"),
}  # fmt: skip


def list_gpu_samples(run: Run) -> Iterator[dict]:
    """Yield each sample of the run's GPUs; a log that cannot be read goes to run.problems."""
    for node, path in run.gpu_log_paths.items():
        try:
            yield from list_node_samples(run, node, path)
        except UserError as error:
            run.problems.append(str(error))


def list_node_samples(run: Run, node: int, path: Path) -> list[dict]:
    """Return each sample of the run's GPUs on a node; UserError when it cannot be read."""
    rows: list[tuple] = []
    reader = read_gpu_samples(path, lambda *row: rows.append(row))
    if reader.untold:
        run.problems.append(reader.untold)
    if reader.columns is None:
        return []
    samples = list(_describe(rows, reader.columns, node, run.start))
    own = find_own_uuids(run, {sample["uuid"] or "" for sample in samples})
    return [sample for sample in samples if (sample["uuid"] or "") in own]


def _describe(rows: list[tuple], columns: Columns, node: int, start: datetime | None):
    first = next((when for _, when, _, _ in rows if when is not None), None)
    offset = find_utc_offset(first, start)
    places = {
        ours: next((columns.names.index(name) for name in names if name in columns.names), None)
        for ours, names in _FIGURES.items()
    }
    for gpu, when, used_mib, fields in rows:
        fits = len(fields) == columns.count  # a later header may have had other columns
        figures = {
            name: _number(fields[at]) if fits and at is not None else None
            for name, at in places.items()
        }
        uuid = fields[columns.uuid].strip() if fits and columns.uuid is not None else None
        yield {
            "node": node,
            "gpu": gpu,
            "uuid": uuid,
            "timestamp_utc": _to_utc(when, offset),
            "elapsed_s": None if when is None else seconds_between(first, when),
            "used_mib": used_mib,
            "total_mib": _read_total(fields, columns) if fits else None,
            **figures,
        }


def _read_total(fields: list[str], columns: Columns) -> float | None:
    if columns.total is None:
        return None
    total_mib = parse_mib(fields[columns.total].strip(), columns.units[columns.total])
    return None if isinstance(total_mib, str) else total_mib


def _number(cell: str) -> float | None:
    try:
        return float(cell.strip().split(" ")[0])
    except ValueError:
        return None


def find_utc_offset(first: datetime | None, start: datetime | None) -> timedelta | None:
    """Return local time minus UTC of a log without a zone, from when its run started in UTC.

    The logger starts within minutes of the training, and zones are whole quarters of an
    hour from UTC. None when the log has a zone, when either time is missing, or when they
    are farther apart than any zone.
    """
    if first is None or start is None or first.tzinfo is not None:
        return None
    apart = first.replace(tzinfo=UTC) - start
    if abs(apart) > _FARTHEST:
        return None
    return timedelta(seconds=round(apart.total_seconds() / _QUARTER_S) * _QUARTER_S)


def _to_utc(when: datetime | None, offset: timedelta | None) -> datetime | None:
    if when is None:
        return None
    if when.tzinfo is not None:
        return when.astimezone(UTC)
    return None if offset is None else (when - offset).replace(tzinfo=UTC)
