"""What the charts draw: runs grouped into configurations, and configurations into series.

A series holds what may be compared: the same settings at other numbers of GPUs. Repeats of
one configuration give a mean with its 95 % interval; a single run gives its epochs' spread.
"""

from dataclasses import dataclass, field

import pandas as pd

from scaling.runs.run_record import Run


@dataclass(frozen=True)
class Source:
    """One complete run: its scale, settings (None: not recorded), epochs and ranks' epochs.

    `home` and `id` say where it is from. `run` is None for a run that is known only by its
    training_metrics.json.
    """

    home: str
    id: str
    workload: str
    nodes: int | None
    gpus_per_node: int | None
    gpus: int
    settings: dict | None
    epochs: pd.DataFrame
    ranks: pd.DataFrame
    run: Run | None = None

    @property
    def name(self) -> str:
        return self.id

    @property
    def unit(self) -> str:
        return str(self.epochs["unit"].iloc[-1])

    @property
    def steady_epochs(self) -> pd.DataFrame:
        """Its epochs after the warm-up; of a run that has no other, the warm-up's."""
        steady = self.epochs[~self.epochs["is_warmup"]]
        return steady if len(steady) else self.epochs

    @property
    def is_steady(self) -> bool:
        return bool((~self.epochs["is_warmup"]).any())


@dataclass(frozen=True)
class Config:
    """A scale at one setting, over its repeats (oldest first): throughput in the study's unit.

    `spread_per_s`: half of the 95 % interval (Student t) with repeats, else the sample standard
    deviation over the epochs of the one run; None when there is neither.
    """

    sources: tuple[Source, ...]
    throughput_per_s: float
    spread_per_s: float | None

    @property
    def latest(self) -> Source:
        return self.sources[-1]

    @property
    def gpus(self) -> int:
        return self.latest.gpus

    @property
    def nodes(self) -> int | None:
        return self.latest.nodes

    @property
    def is_steady(self) -> bool:
        return all(source.is_steady for source in self.sources)

    @property
    def label(self) -> str:
        text = f"{self.gpus} GPU{'s' if self.gpus != 1 else ''}"
        return f"{text}, {self.nodes} nodes" if (self.nodes or 1) > 1 else text


@dataclass(frozen=True)
class Series:
    """Configurations that may be compared, smallest first; `name` says what sets it apart."""

    name: str
    mode: str | None  # weak, strong, or None where nothing says
    configs: tuple[Config, ...]

    @property
    def baseline(self) -> Config:
        """The one on the fewest GPUs, on one node if there is a choice."""
        return self.configs[0]

    def speedup(self, config: Config) -> float:
        return config.throughput_per_s / self.baseline.throughput_per_s

    def efficiency_pct(self, config: Config) -> float:
        return 100 * self.speedup(config) * self.baseline.gpus / config.gpus


@dataclass(frozen=True)
class Study:
    """All that is drawn of one workload; `skipped` has a line for each run left out."""

    workload: str
    unit: str
    series: tuple[Series, ...]
    skipped: tuple[str, ...] = field(default=())

    @property
    def configs(self) -> list[Config]:
        return [config for series in self.series for config in series.configs]

    def label(self, config: Config) -> str:
        """Return the configuration's name, with its series where there are several."""
        name = next(series.name for series in self.series if config in series.configs)
        return f"{config.label} ({name})" if name else config.label
