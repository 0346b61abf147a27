"""Weak scaling of the model: it grows with the GPUs, and each GPU should do as much as before."""

import re

from common.errors import UserError
from scaling.runs.compare import COMPARED_SETTINGS, list_differences
from scaling.runs.study import Study
from scaling.tables.hardware import add_hardware, make_hardware_cells
from scaling.tables.table import ROUNDING, Cell, Table, missing, say, show

# What may differ: it is what grows.
_SAME = tuple(name for name in COMPARED_SETTINGS if name != "model_size")


def make_growing(study: Study) -> Table:
    """Return one row per scale; raises UserError unless two models were run.

    study: of runs whose model grows with the GPUs.
    """
    rows = list(study.scales.itertuples())
    if len({_count_parameters(study, row) for row in rows}) < 2:
        raise UserError(
            "no two models ran on different numbers of GPUs; submit them with: "
            "python scripts/submit.py 'gpt2/growing/*'"
        )
    base = rows[0]
    headers = {
        "gpus": "GPUs",
        "layers": "Layers",
        "parameters_m": "Parameters (million)",
        "throughput_per_s": f"{study.noun.capitalize()}/sec (global)",
        **dict.fromkeys(("throughput_per_gpu", "tflops_per_gpu", "mfu_pct"), ""),  # add_hardware's
        "efficiency_pct": "Efficiency (%)",
    }
    definitions = (
        "The model grows with the GPUs, and each GPU keeps its batch. "
        "Efficiency: TFLOP/s per GPU over those of the smallest scale "
        f"({base.label}, job {study.sources[base.latest].name}). Tokens/sec per GPU fall as each "
        "token takes more work, and say nothing of scaling.",
        study.define_throughput(),
        ROUNDING,
    )
    remarks = [*study.left_out]
    table = Table("growing", "A model that grows with the GPUs", headers,
                  [_make_row(study, row, base) for row in rows], definitions, remarks)  # fmt: skip
    return add_hardware(study, table, rows)


def _make_row(study: Study, row, base) -> dict[str, Cell]:
    settings = study.settings(row.latest)
    parameters = _count_parameters(study, row)
    layers = re.search(r"n_layer=(\d+)", str(settings.get("model_size")))
    return {
        "gpus": say(row.gpus),
        "layers": say(int(layers[1])) if layers else missing("not recorded"),
        "parameters_m": show(parameters and parameters / 1e6, 1, why="not recorded"),
        "throughput_per_s": show(row.throughput_per_s, why="no throughput is recorded"),
        "efficiency_pct": _compare(study, row, base),
    }


def _count_parameters(study: Study, row) -> int | None:
    number = study.settings(row.latest).get("parameters")
    return number if isinstance(number, int) else None


def _compare(study: Study, row, base) -> Cell:
    """Return the efficiency; missing where the two runs differ in more than the model's size."""
    pair = (study.settings(row.latest), study.settings(base.latest))
    unlike = "; ".join(list_differences(*pair, _SAME))
    if unlike and not study.allow_unlike:
        return missing(f"not compared with {base.label}: {unlike}; --allow-unlike compares it")
    here, there = (make_hardware_cells(study, each)["tflops_per_gpu"].value for each in (row, base))
    pct = here / there * 100 if here and there else None
    note = f"unlike {base.label}: {unlike}" if unlike else None
    return show(pct, 1, note=note, why="flops_per_sample or throughput is not recorded")
