"""Run some or all benchmarks and print one table: the bar, what was measured, whether it holds.

    python tests/benchmarks/all.py --out DIR                 every row that needs no GPU
    python tests/benchmarks/all.py --out DIR --only 4 5 8    these rows
    python tests/benchmarks/all.py --out DIR --only G        those of a GPU

Each benchmark is a process that leaves NAME.json and NAME.md in DIR; the table is DIR/all.md.
Peers are installed from PyPI, each into a folder of its own below .venv/peers. The machine should
have nothing else to do: about half an hour on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from measure import describe_machine, holds, python

HERE = Path(__file__).resolve().parent
# A benchmark and the rows of the table that it measures.
BENCHMARKS = {
    "loaders": ("1", "2"),
    "cache_build": ("3",),
    "trainer": ("4", "5"),
    "ddp": ("6",),
    "overhead": ("7",),
    "gpt2_tokens": ("8",),
    "read_gpu_log": ("9",),
    "read_slurm_logs": ("10",),
    "fill_many_runs": ("11",),
    "render_jobs": ("12",),
    "write_report": ("13",),
    "rank_files": ("files",),
    "participants": ("people",),
    "command_starts": ("starts",),
    "heartbeat": ("heartbeat",),
    "gpu": ("G",),
}


def main() -> int:
    known = [row for rows in BENCHMARKS.values() for row in rows]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=known, help="these rows")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--quick", action="store_true", help="small inputs: checks, no figures")
    args = parser.parse_args()
    lines, missed = [], 0
    for name in choose(args.only or [row for row in known if row != "G"]):
        print(f"{name} ...", file=sys.stderr, flush=True)
        path = args.out / f"{name}.json"
        path.unlink(missing_ok=True)  # of an earlier run
        command = python(HERE / f"{name}.py", "--out", args.out, *["--quick"] * args.quick)
        done = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL)
        if not path.exists():
            lines.append(f"| {BENCHMARKS[name][0]} | {name}.py ended with {done.returncode} |||||")
            missed += 1
            continue
        for row in json.loads(path.read_text())["rows"]:
            line, is_missed = format_row(name, row)
            lines.append(line)
            missed += is_missed
    machine = ", ".join(f"{key} {value}" for key, value in describe_machine("torch").items())
    head = "| row | what | bar | measured | n | holds |\n| --- | :-- | :-- | --: | --: | :-- |"
    text = "\n".join([head, *lines, "", machine, ""])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "all.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if missed and not args.quick else 0


def choose(rows: list[str]) -> list[str]:
    """The benchmarks that measure any of these rows, and are here."""
    return [
        name
        for name, measured in BENCHMARKS.items()
        if set(measured) & set(rows) and (HERE / f"{name}.py").exists()
    ]


def format_row(name: str, row: dict) -> tuple[str, bool]:
    """A line of the table, and whether it misses a bar; a row without a ratio shows its figures."""
    number = row.get("row") or BENCHMARKS[name][0]
    if row.get("ratio", "") == "":
        has_bar, kept = bool(row.get("bar")), row.get("holds", True)
        shown = {key: each for key, each in row.items() if key not in ("bar", "holds", "n", "row")}
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in shown.values())
        what = ", ".join(f"{key} {cell}" for key, cell in zip(shown, cells, strict=True))
        verdict = ("yes" if kept else "**no**") if has_bar else ""
        line = f"| {number} | {what} | {row.get('bar', '')} | | {row.get('n', 1)} | {verdict} |"
        return line, not kept and (has_bar or name == "gpu")
    kept = holds(row["ratio"], row["bar"])
    cells = (
        number, row["benchmark"], row["bar"], f"{row['ratio']:.4g}", row["n"],
        "yes" if kept else "**no**",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |", not kept


if __name__ == "__main__":
    sys.exit(main())
