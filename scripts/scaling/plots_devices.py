"""The two bar charts of one device against several: training time and throughput."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.errors import ScalingError
from scaling.plots_style import COLORS, LEAST_PT, new_figure
from scaling.rank_json import RankEpoch, read_rank_files

WORKDIR_FILES = "rank<r>_results_epoch<e>.json"


@dataclass(frozen=True)
class Bar:
    """Mean over the epochs after the first, their sample standard deviation (None: one epoch)."""

    name: str
    value: float
    spread: float | None
    color: str


@dataclass(frozen=True)
class Devices:
    """What is compared, from the rank files of two folders."""

    single: list[RankEpoch]
    multi: list[RankEpoch]

    @property
    def ranks(self) -> int:
        return len({record.rank for record in self.multi})

    @property
    def unit(self) -> str:
        return self.single[0].unit or "samples/s"

    @property
    def is_steady(self) -> bool:
        return all(len({r.epoch for r in part}) > 1 for part in (self.single, self.multi))


def read_devices(single: Path, multi: Path) -> Devices:
    """Return the rank files of a one-device and a several-device run.

    Raises ScalingError that names the folder or the first file that is missing or unusable.
    """
    parts = [_read_folder(Path(single), 1), _read_folder(Path(multi), 2)]
    units = {record.unit for part in parts for record in part}
    if len(units) > 1:
        raise ScalingError(f"{single} and {multi} count different things: {sorted(units)}")
    return Devices(*parts)


def _read_folder(folder: Path, least_ranks: int) -> list[RankEpoch]:
    if not folder.is_dir():
        raise ScalingError(f"{folder}: no such folder; it should hold {WORKDIR_FILES}")
    files = read_rank_files(folder)
    if files.problems:
        raise ScalingError(files.problems[0])
    present = {(record.rank, record.epoch) for record in files.records}
    ranks = max(least_ranks, 1 + max((rank for rank, _ in present), default=0))
    epochs = 1 + max((epoch for _, epoch in present), default=0)
    for epoch in range(epochs):
        for rank in range(ranks):
            if (rank, epoch) not in present:
                raise ScalingError(f"{folder}/rank{rank}_results_epoch{epoch}.json is missing")
    if least_ranks == 1 and ranks > 1:
        raise ScalingError(f"{folder} holds {ranks} ranks; the single-device run has one")
    return files.records


def list_time_bars(devices: Devices) -> list[Bar]:
    """Return the training time of each GPU of the several, then of the single one (s)."""
    bars = [
        _make_bar(f"GPU {rank}", {r.epoch: r.training_s for r in devices.multi if r.rank == rank},
                  COLORS[0])
        for rank in sorted({record.rank for record in devices.multi})
    ]  # fmt: skip
    alone = {record.epoch: record.training_s for record in devices.single}
    return [*bars, _make_bar("Single GPU", alone, COLORS[1])]


def list_rate_bars(devices: Devices) -> list[Bar]:
    """Return the throughput of the several together, then of the single one."""
    sums: dict[int, float] = {}
    for record in devices.multi:
        sums[record.epoch] = sums.get(record.epoch, 0.0) + _rate(record)
    alone = {record.epoch: _rate(record) for record in devices.single}
    name = f"{devices.ranks} GPUs (sum)"
    return [_make_bar(name, sums, COLORS[0]), _make_bar("Single GPU", alone, COLORS[1])]


def _rate(record: RankEpoch) -> float:
    if record.throughput_per_s is None:
        raise ScalingError(f"{record.path}: its throughput is no number")
    return record.throughput_per_s


def _make_bar(name: str, by_epoch: dict[int, float], color: str) -> Bar:
    """Average over the epochs after the first; a run that has no other keeps it."""
    values = [by_epoch[epoch] for epoch in sorted(by_epoch)][1:] or list(by_epoch.values())
    spread = stdev(values) if len(values) > 1 else None
    return Bar(name, mean(values), spread, color)


def draw_training_time(devices: Devices) -> Figure:
    figure = new_figure()
    _draw_bars(figure.subplots(), list_time_bars(devices), "{:,.2f} s")
    figure.axes[0].set_ylabel("Training time per epoch (s)")
    return figure


def draw_throughput(devices: Devices) -> Figure:
    figure = new_figure()
    _draw_bars(figure.subplots(), list_rate_bars(devices), "{:,.1f}")
    figure.axes[0].set_ylabel(f"Throughput ({devices.unit})")
    return figure


def _draw_bars(axes: Axes, bars: list[Bar], form: str) -> None:
    heights = [bar.value for bar in bars]
    halves = [bar.spread if bar.spread and isfinite(bar.spread) else 0.0 for bar in bars]
    axes.bar(range(len(bars)), heights, width=0.62, color=[bar.color for bar in bars])
    shown = [at for at, bar in enumerate(bars) if bar.spread is not None]
    axes.errorbar(
        shown, [heights[at] for at in shown], yerr=[halves[at] for at in shown], fmt="none",
        ecolor="#000000", capsize=6, linewidth=1.6,
    )  # fmt: skip
    for at, bar in enumerate(bars) if len(bars) <= 5 else ():
        text = form.format(bar.value)
        top = bar.value + halves[at]
        axes.annotate(
            text, (at, top), xytext=(0, 5), textcoords="offset points", ha="center",
            fontsize=LEAST_PT,
        )  # fmt: skip
    step = max(1, -(-len(bars) // 6))
    ticks = [at for at in range(len(bars)) if at % step == 0 and at < len(bars) - step]
    ticks.append(len(bars) - 1)
    axes.set_xticks(ticks, [bars[at].name for at in ticks])
    axes.set_ylim(0, 1.15 * max(h + s for h, s in zip(heights, halves, strict=True)))
    axes.grid(visible=False, axis="x")
