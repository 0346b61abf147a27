"""What a run's logs show besides its records: throttled GPUs, idle ones, sockets between nodes."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from common.errors import UserError
from scaling.read.cpu_log import read_cpu_log
from scaling.read.gpu_fast import read_block
from scaling.read.gpu_reader import GpuReader
from scaling.read.text import clean_line, find_lines, read_blocks
from scaling.runs.run_record import Run

# Bits of clocks_throttle_reasons.active (clocks_event_reasons.active from driver 535 on) that mean
# a slower clock than was asked for. Idle (0x1) and settings (0x2, 0x10, 0x100) are none.
# Source: NVML API Reference Guide, NvmlClocksEventReasons.
SLOWING = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
_MASKS = ("clocks_throttle_reasons.active", "clocks_event_reasons.active")
_CLOCKS = ("clocks.sm", "clocks.current.sm", "gfx_clock")
_LOADS = ("utilization.gpu", "gfx_activity", "gfx", "gpu use")
IDLE = 0x1
LEAST_SHARE = 0.1  # of the samples under load; fewer are a moment's
SLOW_CLOCK = 0.9  # of the median clock of all GPUs
# NCCL's own words, with NCCL_DEBUG=INFO (NCCL 2.4 to 2.27).
_WORDS = ("via NET/", "Using network ", "NET/IB : ", "NET/Socket : Using", "NCCL_IB_DISABLE set")
_CHANNEL = re.compile(r"NCCL INFO Channel .* via NET/([A-Za-z0-9_-]+)")
_NETWORK = re.compile(r"NCCL INFO Using network (\S+)")
_INTERFACE = re.compile(r"NET/Socket : Using \[0\]([^:\s]+):")
_IB_DEVICE = re.compile(r"NET/IB : Using \[0\](\S+)")


@dataclass(eq=False)
class GpuLoad:
    """One GPU's samples: how busy it was, how fast, how often slowed and by what.

    Under load is what is not 0 % busy. clocks_mhz and slow_clocks_mhz (throttled) count samples.
    """

    node: int
    gpu: int | None
    loads: Counter = field(default_factory=Counter)  # % -> samples, up to the last busy one
    idle_since: int = 0  # samples: the job's own gaps, or its end
    clocks_mhz: Counter = field(default_factory=Counter)
    slow_clocks_mhz: Counter = field(default_factory=Counter)
    busy: int = 0
    slowed: int = 0
    reasons: Counter = field(default_factory=Counter)
    has_mask: bool = False

    @property
    def is_throttled(self) -> bool:
        return self.slowed > 1 and self.slowed >= LEAST_SHARE * self.busy

    @property
    def mean_load_pct(self) -> float | None:
        """Mean from the first busy sample to the last one."""
        if not self.loads:
            return None
        return sum(pct * n for pct, n in self.loads.items()) / self.loads.total()

    @property
    def clock_mhz(self) -> float | None:
        return _median(self.clocks_mhz + self.slow_clocks_mhz)

    def add(self, load_pct: float | None, clock_mhz: float | None, mask: int | None) -> None:
        self.has_mask = self.has_mask or mask is not None
        if load_pct == 0 or (load_pct is None and mask == IDLE):
            self.idle_since += bool(self.busy)
            return
        self.busy += 1
        if load_pct is not None:
            self.loads[0.0] += self.idle_since
            self.loads[load_pct] += 1
        self.idle_since = 0
        reasons = [name for bit, name in SLOWING.items() if (mask or 0) & bit]
        self.slowed += bool(reasons)
        self.reasons.update(reasons)
        if clock_mhz is not None:
            (self.slow_clocks_mhz if reasons else self.clocks_mhz)[clock_mhz] += 1


@dataclass
class Transport:
    """What NCCL said of the network: channels by transport, its interface, InfiniBand or none."""

    says_anything: bool = False
    channels: Counter = field(default_factory=Counter)
    networks: set = field(default_factory=set)
    interfaces: set = field(default_factory=set)
    ib_devices: set = field(default_factory=set)
    no_ib: bool = False
    ib_disabled: bool = False

    @property
    def is_socket(self) -> bool:
        return self.channels["Socket"] > 0 or (not self.channels and "Socket" in self.networks)


def read_gpu_loads(run: Run) -> list[GpuLoad]:
    """Return each GPU's load, streamed; a log that cannot be read goes to run.problems."""
    found: list[GpuLoad] = []
    for node, path in run.gpu_log_paths.items():
        try:
            found += _read_gpu_log(node, path)
        except UserError as error:
            if str(error) not in run.problems:
                run.problems.append(str(error))
    return found


def _read_gpu_log(node: int, path: Path) -> list[GpuLoad]:
    loads: dict[int | None, GpuLoad] = {}

    def take(gpu: int | None, _when, _used_mib, fields: list[str]) -> None:
        names = reader.columns.names
        load = loads.get(gpu) or loads.setdefault(gpu, GpuLoad(node, gpu))
        if len(fields) == len(names):  # a later header may have had other columns
            at = [_find(names, wanted) for wanted in (_LOADS, _CLOCKS, _MASKS)]
            cells = ["" if place is None else fields[place].strip() for place in at]
            load.add(_number(cells[0]), _number(cells[1]), _read_mask(cells[2]))

    reader = GpuReader(Path(path), is_strict=False, on_sample=take)
    for block in read_blocks(reader.path):
        read_block(reader, block)
    reader.close()
    return [loads[gpu] for gpu in sorted(loads, key=str)]


def _find(names: tuple[str, ...], wanted: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _median(counts: Counter) -> float | None:
    """Return the lower median of counted values."""
    rest = (counts.total() + 1) // 2
    for value in sorted(counts):
        rest -= counts[value]
        if rest <= 0:
            return value
    return None


def _number(cell: str) -> float | None:
    try:
        return float(cell.split(" ")[0])
    except ValueError:
        return None


def _read_mask(cell: str) -> int | None:
    try:
        return int(cell, 16) if cell.lower().startswith("0x") else None
    except ValueError:
        return None


def describe_throttling(loads: list[GpuLoad]) -> list[str]:
    """Return a sentence on the GPUs that were slowed down, and one on clocks that differ."""
    found = []
    throttled = sorted((g for g in loads if g.is_throttled), key=lambda g: -g.slowed / g.busy)
    if throttled:
        worst = throttled[0]
        reasons = ", ".join(f"{name} {n}" for name, n in worst.reasons.most_common())
        slow_mhz, mhz = _median(worst.slow_clocks_mhz), _median(worst.clocks_mhz)
        clocks = f"; SM clock {slow_mhz:.0f} MHz then" if slow_mhz else ""
        clocks += f", {mhz:.0f} MHz else" if clocks and mhz else ""
        others = f"; {len(throttled)} of {len(loads)} GPUs were" if len(throttled) > 1 else ""
        found.append(
            f"Throttling: {_name(worst)} was slowed down in {worst.slowed} of {worst.busy} samples "
            f"under load ({reasons}){clocks}{others}"
        )
    speeds = {load: load.clock_mhz for load in loads if load.clock_mhz}
    if len(speeds) > 1:
        usual, slowest = median(speeds.values()), min(speeds, key=speeds.get)
        if speeds[slowest] < SLOW_CLOCK * usual:
            found.append(
                f"Clocks: {_name(slowest)} runs at {speeds[slowest]:.0f} MHz under load, the "
                f"median of {len(speeds)} GPUs is {usual:.0f} MHz"
            )
    return found


def _name(load: GpuLoad) -> str:
    return f"GPU {'?' if load.gpu is None else load.gpu} of node{load.node}"


def read_transport(path: Path) -> Transport:
    """Return what NCCL says in a job's log. Raises UserError when it cannot be read."""
    found = Transport()
    for block in read_blocks(path):
        found.says_anything = found.says_anything or "NCCL INFO" in block
        for start in find_lines(block, _WORDS):
            end = block.find("\n", start)
            _take(found, clean_line(block[start : end if end >= 0 else len(block)]))
    return found


def _take(found: Transport, line: str) -> None:
    if match := _CHANNEL.search(line):
        found.channels[match[1]] += 1
    elif match := _NETWORK.search(line):
        found.networks.add(match[1])
    elif match := _INTERFACE.search(line):
        found.interfaces.add(match[1])
    elif match := _IB_DEVICE.search(line):
        found.ib_devices.add(match[1])
    found.no_ib = found.no_ib or "NET/IB : No device found" in line
    found.ib_disabled = found.ib_disabled or bool(re.search(r"NCCL_IB_DISABLE set .* 1\b", line))


def describe_transport(found: Transport) -> str | None:
    """Return a sentence when NCCL talks through sockets between nodes, None when it does not."""
    if not found.is_socket:
        return None
    over = f" over {', '.join(sorted(found.interfaces))}" if found.interfaces else ""
    many = f" ({found.channels['Socket']} channels)" if found.channels else ""
    text = f"Socket transport: NCCL talks through TCP sockets between the nodes{over}{many}"
    if found.ib_disabled:
        return f"{text}: NCCL_IB_DISABLE=1 is set; without it InfiniBand would be tried"
    if any(name.startswith("ib") for name in found.interfaces) or found.ib_devices:
        return f"{text}: there is InfiniBand, so look for libibverbs and /dev/infiniband in the job"
    if found.no_ib:
        return f"{text}: it found no InfiniBand device; ask the site whether the nodes have one"
    return f"{text}: InfiniBand, or the site's NCCL plugin, would be faster"


def read_cpu_use(run: Run) -> list[tuple[int, float, float | None]]:
    """Return (node, mean CPU % of the job's processes, seconds between samples) a node's log."""
    found = []
    for node, path in run.cpu_log_paths.items():
        try:
            log = read_cpu_log(path)
        except UserError as error:
            if str(error) not in run.problems:
                run.problems.append(str(error))
            continue
        if log.mean_cpu_pct is not None:
            found.append((node, log.mean_cpu_pct, log.interval_s))
    return found
