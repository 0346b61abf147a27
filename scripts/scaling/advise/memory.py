"""What each scale's batch takes of a GPU's memory: predicted, measured, and what would fit."""

from pathlib import PurePath

from common.gpus import list_memory_gb
from common.memory import DEFINITION, find_largest_batch, judge_memory, predict_memory
from scaling.runs import Study
from scaling.tables.table import Cell, Table, missing, say, show

GB = 1024  # MiB
HEADERS = {
    "config": "Configuration",
    "batch": "Batch per GPU",
    "predicted_mib": "Predicted peak (MiB)",
    "measured_mib": "Measured peak (MiB)",
    "error_pct": "Error (%)",
    "gpu_mib": "GPU memory (MiB)",
    "verdict": "Verdict",
    "largest": "Largest batch that fits",
}
MEASURED = (
    "Measured: the most that PyTorch had allocated on a rank's GPU. Error: of the prediction, over "
    "the measured peak."
)


def make_memory_advice(study: Study) -> Table:
    """Return a row per scale; it starts PyTorch once, in a program of its own."""
    rows = list(study.scales.itertuples())
    requests = [make_request(study.settings(row.latest)) for row in rows]
    answers = iter(predict_memory([each for each in requests if each]))
    told = [next(answers) if each else {"error": "no command line is recorded"}
            for each in requests]  # fmt: skip
    cells = [_make_row(study, row, answer) for row, answer in zip(rows, told, strict=True)]
    title = "Memory of a GPU"
    return Table("memory_advice", title, HEADERS, cells, (DEFINITION, MEASURED), ())


def make_request(settings: dict) -> dict | None:
    """What memory_estimate.py is asked about a run, None where the run does not say enough."""
    argv = settings.get("argv")
    if not isinstance(argv, list) or not argv:
        return None
    words = [str(word) for word in argv[1:]]
    if precision := settings.get("precision"):
        words.append(f"--precision={precision}")
    dataset = settings.get("dataset")
    classes = dataset.get("classes") if isinstance(dataset, dict) else None
    vocabulary = dataset.get("vocab_size") if isinstance(dataset, dict) else None
    if vocabulary:
        words.append(f"--vocab-size={vocabulary}")
    return {
        "trainer": PurePath(str(argv[0])).name,
        "words": words,
        "world_size": settings.get("world_size") or 1,
        "local_world_size": settings.get("gpus_per_node"),
        "device": settings.get("device") or "cuda",
        **({"classes": classes} if classes else {}),
    }


def _make_row(study: Study, row, answer: dict) -> dict[str, Cell]:
    settings = study.settings(row.latest)
    measured, why = _find_measured(study, row, settings)
    gpu_mib, unknown = _find_gpu_mib(study, row, settings)
    cells = {"config": say(row.label), "measured_mib": show(measured, 0, why=why)}
    if "error" in answer:
        none = missing(answer["error"])
        return dict.fromkeys(HEADERS, none) | cells | {"gpu_mib": show(gpu_mib, 0, why=unknown)}
    error = (answer["peak_mib"] / measured - 1) * 100 if measured else None
    judged = missing(unknown) if gpu_mib is None else say(judge_memory(answer, gpu_mib))
    largest = None if gpu_mib is None else find_largest_batch(answer, gpu_mib)
    return cells | {
        "batch": say(answer["batch"]),
        "predicted_mib": show(answer["peak_mib"], 0),
        "error_pct": show(error, 1, why=why),
        "gpu_mib": show(gpu_mib, 0, why=unknown),
        "verdict": judged,
        "largest": missing(unknown) if largest is None else say(largest),
    }


def _find_measured(study: Study, row, settings: dict) -> tuple[float | None, str]:
    """Return the peak (MiB) of a scale's latest run; None and why where there is none."""
    if settings.get("device") != "cuda":
        return None, "on a CPU the peak is that of the process, its libraries among it"
    ranks = study.rank_epochs
    peak = ranks[ranks["run"] == row.latest]["peak_mib"].max()
    return (None if peak != peak else float(peak)), "no rank recorded its peak"


def _find_gpu_mib(study: Study, row, settings: dict) -> tuple[float | None, str]:
    """Return the memory of the run's GPUs: as their log has it, else by their name."""
    samples = study.samples
    total = samples[samples["run"] == row.latest]["total_mib"].min()
    if total == total:
        return float(total), ""
    name = settings.get("gpu_name")
    sizes = list_memory_gb(str(name)) if name else []
    if len(sizes) == 1:
        return sizes[0] * GB, ""
    return None, f"the memory of {name} is unknown" if name else "no GPU is recorded"
