"""Strategies side by side: what a rank holds and sends, at one number of GPUs and nodes."""

import pandas as pd

from common.errors import UserError
from scaling.runs.compare import COMPARED_SETTINGS, list_differences
from scaling.runs.study import Study
from scaling.tables.hardware import add_hardware
from scaling.tables.table import ROUNDING, Cell, Table, missing, say, show

_HELD = {"parameter": "Parameters", "gradient": "Gradients", "optimizer": "Optimizer"}
_KERNELS = {"nccl_ms": "NCCL kernels (ms/step)", "kernels_ms": "Other kernels (ms/step)"}
# What must be equal for a comparison to mean anything: the numbers that are kept and computed with.
_DTYPES = ("precision", "state_dtypes")


def make_strategies(study: Study) -> list[Table]:
    """Return one table per scale that ran with two strategies or more.

    Raises UserError when there is none, and when two strategies compute with other numbers.
    """
    tables = []
    for (gpus, _), rows in study.configs.groupby(["gpus", "nodes_key"]):
        rows = list(rows.itertuples())
        if gpus > 1 and len({name_strategy(study, row) for row in rows}) > 1:
            tables.append(_make_table(study, sorted(rows, key=lambda row: row.latest)))
    if not tables:
        raise UserError(
            "no two strategies ran at one scale; submit them with: "
            "python scripts/submit.py 'gpt2/strategies/*'"
        )
    return tables


def name_strategy(study: Study, row) -> str:
    """Return `fsdp`, `tp of 4`, `fsdp, recomputed` (activation checkpointing), `ddp, nsys`."""
    settings = study.settings(row.latest)
    name = str(settings.get("strategy") or "not recorded")
    name += f" of {ranks}" if (ranks := settings.get("tensor_parallel")) else ""
    name += ", recomputed" if settings.get("activation_checkpointing") else ""
    return f"{name}, nsys" if settings.get("nsys_steps") else name


def _make_table(study: Study, rows: list) -> Table:
    base = next((row for row in rows if name_strategy(study, row) == "ddp"), rows[0])
    recorded = any(study.sources[row.latest].kernels for row in rows if study.find_run(row))
    for row in rows:
        _check_dtypes(study, row, base)
    headers = {
        "strategy": "Strategy",
        "throughput_per_gpu": "",  # its place alone, as the utilisation's: add_hardware fills them
        "wall_s": "Wall time (s)",
        "val_loss": "Val Loss",
        "peak_mib": "Peak (MiB)",
        **{f"{name}_mib": f"{title} (MiB)" for name, title in _HELD.items()},
        "activation_mib": "Activations (MiB)",
        "comm_ms": "Communication (ms/step)",
        "comm_exposed_ms": "Of it exposed (ms/step)",
        "overlap_pct": "Overlap (%)",
        **(_KERNELS if recorded else {}),
        "utilization_pct": "",
    }
    definitions = [
        "Each is the most of any rank. Parameters, gradients and optimizer: kept after the first "
        "step. Peak: of a rank's allocations on its GPU. Activations: its peak less what it keeps.",
        "Communication: time in which any collective ran, in the steps of --profile, mean of the "
        "profiled ranks. Exposed: nothing was computed meanwhile. Overlap: the rest of it.",
        *(["Kernels: nsys's sums over the steps it recorded, mean of the recorded ranks; those "
           "that run at once count each."] if recorded else []),
        study.define_throughput(),
        ROUNDING,
    ]  # fmt: skip
    sources = [f"{name_strategy(study, row)}: job {study.sources[row.latest].name}" for row in rows]
    cells = [_make_row(study, row, base) for row in rows]
    table = Table("strategies", f"Strategies on {base.label}", headers, cells, definitions,
                  sources=sources)  # fmt: skip
    return add_hardware(study, table, rows)


def _check_dtypes(study: Study, row, base) -> None:
    here, there = study.settings(row.latest), study.settings(base.latest)
    for name in _DTYPES:
        if here.get(name) != there.get(name):
            names = [study.sources[each.latest].name for each in (row, base)]
            raise UserError(
                f"job {names[0]} has {name} {here.get(name)}, job {names[1]} {there.get(name)}: "
                "strategies compare at equal numbers alone; run one of them again"
            )


def _make_row(study: Study, row, base) -> dict[str, Cell]:
    names = tuple(name for name in COMPARED_SETTINGS if name != "strategy")
    pair = (study.settings(row.latest), study.settings(base.latest))
    unlike = "; ".join(list_differences(*pair, names)) or None
    ranks = study.rank_epochs
    ranks = ranks[(ranks["run"] == row.latest) & ~ranks["is_warmup"]]
    held = {name: ranks[f"{name}_bytes"].max() / 2**20 for name in _HELD}
    peak = ranks["peak_mib"].max()
    on_gpu = pair[0].get("device") == "cuda"
    kept = ranks[[f"{name}_bytes" for name in _HELD]].sum(axis=1, skipna=False) / 2**20
    activations = show((ranks["peak_mib"] - kept).max(), 1, why="not recorded")
    profiled = study.rank_epochs[study.rank_epochs["run"] == row.latest]
    sent, exposed = (
        profiled[f"profiled_{name}_per_step_s"].mean() * 1000 for name in ("comm", "exposed")
    )
    none = "not profiled: train with --profile 4"
    return {
        "strategy": say(name_strategy(study, row), unlike and f"unlike {base.label}: {unlike}"),
        "wall_s": show(row.wall_s, why="no wall time is recorded"),
        "val_loss": show(_last_loss(study, row), 4, why="no validation loss is recorded"),
        "peak_mib": show(peak, 1, why="not recorded"),
        **{f"{name}_mib": show(mib, 1, why="not recorded") for name, mib in held.items()},
        "activation_mib": activations if on_gpu else missing(
            "on a CPU the peak is that of the process, its libraries among it"),
        "comm_ms": show(sent, 1, why=none),
        "comm_exposed_ms": show(exposed, 1, why=none),
        "overlap_pct": show((1 - exposed / sent) * 100 if sent else None, 1, why=none),
        **_make_kernel_cells(study, row),
    }  # fmt: skip


def _make_kernel_cells(study: Study, row) -> dict[str, Cell]:
    """Milliseconds per step in NCCL's kernels and in all others, as nsys recorded them."""
    run = study.find_run(row)
    nodes, steps = run.kernels if run else [], study.settings(row.latest).get("nsys_steps")
    if not (nodes and steps):
        why = 'no kernels recorded: profiler = "nsys", 20 steps or more'
        return {name: missing(why) for name in _KERNELS}
    sums = [
        sum(kernel.total_s for node in nodes for kernel in node if kernel.is_communication == sent)
        for sent in (True, False)
    ]
    return {
        name: show(total * 1000 / steps / len(nodes), 1)
        for name, total in zip(_KERNELS, sums, strict=True)
    }


def _last_loss(study: Study, row) -> float | None:
    loss = study.runs["val_loss"][row.latest]
    return None if pd.isna(loss) else loss
