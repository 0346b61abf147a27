"""What the benchmarks share: interleaved rounds, CPU seconds of a process, a table and JSON."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[2]
SCRIPTS = REPO / "scripts"


class Usage(NamedTuple):
    """What a whole process used: CPU and wall seconds, peak resident memory in MiB."""

    cpu_s: float
    wall_s: float
    peak_mib: float


def run_process(command: list[object]) -> Usage:
    """Run a command to its end, its output thrown away; raise when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: {command} ended with {process.returncode}")
    wall_s = time.perf_counter() - started
    return Usage(used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss / 1024)


def run_interleaved(cases: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return name -> what each round's run returned; one warm-up round is not counted.

    Each round runs every case once, so that a busy machine slows all of them alike; every other
    round goes backwards, so that none always has the same one before it.
    """
    for case in cases.values():
        case()
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in list(cases)[:: -1 if number % 2 else 1]:
            found[name].append(cases[name]())
    return found


class Spent(NamedTuple):
    """What a piece of work took: CPU seconds of this process, and by the wall."""

    cpu_s: float
    wall_s: float


def spend(work: Callable[[], object]) -> Spent:
    """Do a piece of work in this process."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return Spent(time.process_time() - cpu_s, time.perf_counter() - wall_s)


def by_clock(found: dict[str, list[Spent]], clock: str) -> dict[str, list[float]]:
    """Pick `cpu_s` or `wall_s` of each round."""
    return {name: [getattr(spent, clock) for spent in rounds] for name, rounds in found.items()}


class Worker:
    """A process of its own for one case of a benchmark, so that none changes another's memory.

    It runs `script --worker NAME …`, which calls serve(); each call of run() is a round of it.
    """

    def __init__(self, script: str, name: str, *arguments: object):
        command = python(script, "--worker", name, *arguments)
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self) -> Spent:
        """Let it do its work once."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"error: a worker ended with {self.process.wait()}; see above")
        return Spent(*json.loads(answer))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(work: Callable[[], object]) -> None:
    """Do the work once for each line of standard input, and print what it took."""
    for _ in sys.stdin:
        spent = spend(work)
        print(json.dumps(spent), flush=True)


def add_peer(name: str, *requirements: str, alone: bool = False) -> None:
    """Install another project's packages from PyPI, once, and let this process import them.

    They go to .venv/peers/NAME, behind our own packages: PyTorch and numpy are the same for
    both sides. alone: without what they depend on, since that is here.
    """
    folder = REPO / ".venv/peers" / name
    if not folder.exists():
        part = folder.with_name(f"{name}.part{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", part]
        command += ["--no-deps"] * alone + list(requirements)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: cannot install {name}: {done.stderr.strip()[-500:]}")
        part.rename(folder)
    sys.path.append(str(folder))


def summarise(
    name: str, bar: str, found: dict[str, list[float]], ours: str, base: str, row: str = ""
) -> dict:
    """Return a row: the median of the rounds' ratios ours / base, and each case's median."""
    ratios = [a / b for a, b in zip(found[ours], found[base], strict=True)]
    medians = {case: statistics.median(times) for case, times in found.items()}
    return judge(row, name, bar, ratios) | {"median_s": medians}


def judge(row: str, name: str, bar: str, ratios: list[float]) -> dict:
    """Return a row of any ratios, one a round: their median against the bar (`<= 1.5`, `>= 50`).

    row: its number in the table of README.md here; "" for a continued row.
    """
    middle = statistics.median(ratios)
    return {
        "row": row,
        "benchmark": name,
        "bar": bar,
        "ratio": middle,
        "holds": holds(middle, bar),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "n": len(ratios),
    }


def holds(value: float, bar: str) -> bool:
    """Say whether a value keeps to a bar such as `<= 1.5` or `>= 50`."""
    sign, limit = bar.split()[:2]
    return value <= float(limit) if sign == "<=" else value >= float(limit)


def parse_options(description: str, rounds: int = 5, **more: dict) -> argparse.Namespace:
    """Return the options that every benchmark has; --quick is the smoke run of the tests.

    more: name -> what argparse wants to know of another option.
    """
    parser = argparse.ArgumentParser(description=description)
    for name, facts in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **facts)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument("--quick", action="store_true", help="small inputs: checks, no figures")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write NAME.json and NAME.md there")
    return parser.parse_args()


def describe_machine(*packages: str) -> dict[str, str]:
    """Return the processor, Python and the packages' versions, and the time."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    found = {
        "cpu": cpu,
        "flags": " ".join(flag for flag in _TELLING_FLAGS if flag in read_cpu_flags()),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


# What decides how fast matrix products are, and in which precision.
_TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "sve",
                  "bf16")  # fmt: skip


def read_cpu_flags() -> set[str]:
    """Return the processor's feature flags, none where the system does not tell them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return set(flags.partition(":")[2].split())


def report(name: str, rows: list[dict], machine: dict[str, str], out: Path | None) -> None:
    """Print a Markdown table of rows with the same keys; write it and the JSON when asked."""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|---" * len(keys) + "|"]
    lines += ["| " + " | ".join(_show(row[key]) for key in keys) + " |" for row in rows]
    text = "\n".join([*lines, "", ", ".join(f"{k} {v}" for k, v in machine.items()), ""])
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.md").write_text(text, encoding="utf-8")
        record = {"rows": rows, "machine": machine}
        (out / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(inner)}" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def python(*arguments: object) -> list[object]:
    """Return the command that runs this Python with arguments."""
    return [sys.executable, *arguments]
