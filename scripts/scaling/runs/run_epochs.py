"""The epochs of a run, from the best record that it left: metrics file, log, or rank files."""

from collections import defaultdict
from pathlib import Path

from common.errors import UserError
from scaling.read.epoch_line import Epoch
from scaling.read.metrics_json import MetricsEpoch, read_training_metrics
from scaling.read.numbers import plain_number
from scaling.read.rank_json import RankEpoch, read_rank_files
from scaling.runs.run_record import Run

DEFAULT_WARMUP_EPOCHS = 1  # the run contract's, for a run without run.json
LOG, METRICS, RANKS = "log", "training_metrics.json", "rank files"


def list_epochs(run: Run) -> list[dict]:
    """Return a record an epoch of the run, and of what its log holds of earlier attempts.

    Times in s, throughput of the whole job in `unit`, accuracies from 0 to 1. What no file
    of the run holds is None. Raises nothing: what cannot be read is in run.problems.
    """
    attempts = run.log.attempts if run.log and run.restarts == 0 else []
    records = []
    for number, attempt in enumerate(attempts[:-1], start=1):
        records += [_from_line(epoch, number, True) for epoch in attempt.epochs]
    newest = _read_metrics(run) or _read_log(run, max(len(attempts), 1)) or _read_ranks(run)
    for record in newest:
        record.setdefault("attempt", max(len(attempts), 1))
    warmup = find_warmup_epochs(run)
    for record in records + newest:
        record["is_warmup"] = record["epoch"] <= warmup
    return records + newest


def find_warmup_epochs(run: Run) -> int:
    """Return how many first epochs means leave out: run.json's word, else the contract's."""
    warmup = (run.settings or {}).get("warmup_epochs")
    return warmup if isinstance(warmup, int) else DEFAULT_WARMUP_EPOCHS


def _read_log(run: Run, attempt: int) -> list[dict]:
    epochs = run.attempt.epochs if run.attempt else []
    return [_from_line(epoch, attempt, False) for epoch in epochs]


def _from_line(epoch: Epoch, attempt: int, is_superseded: bool) -> dict:
    def fraction(pct) -> float | None:
        return None if pct is None or (value := plain_number(pct)) is None else value / 100

    return {
        "attempt": attempt,
        "epoch": epoch.epoch,
        "throughput_per_s": plain_number(epoch.throughput_per_s),
        "unit": epoch.unit,
        "train_loss": plain_number(epoch.train_loss),
        "val_loss": plain_number(epoch.val_loss),
        "train_accuracy": fraction(epoch.train_accuracy_pct),
        "val_accuracy": fraction(epoch.val_accuracy_pct),
        "perplexity": None if (p := epoch.val_perplexity) is None else plain_number(p),
        "bleu": None if (b := epoch.val_bleu) is None else plain_number(b),
        "is_superseded": is_superseded,
        "source": LOG,
    }


def _read_metrics(run: Run) -> list[dict]:
    path = run.results_dir / "training_metrics.json"
    if not path.is_file():
        return []
    try:
        metrics = read_training_metrics(path)
    except UserError as error:
        run.problems.append(str(error))
        return []
    unit = (run.settings or {}).get("unit")
    return [_from_metrics(epoch, unit) for epoch in metrics.epochs]


def _from_metrics(epoch: MetricsEpoch, unit: object) -> dict:
    figures = {key: value for key, value in vars(epoch).items() if key != "record"}
    figures["unit"] = unit if isinstance(unit, str) else epoch.unit  # `img/s` counts samples
    return {**figures, "is_superseded": False, "source": METRICS}


def _read_ranks(run: Run) -> list[dict]:
    by_epoch: dict[int, list[RankEpoch]] = defaultdict(list)
    for record in read_ranks(run):
        by_epoch[record.epoch + 1].append(record)
    world_size = (run.settings or {}).get("world_size") or run.gpus
    return [
        _from_ranks(number, ranks)
        for number, ranks in sorted(by_epoch.items())
        if world_size in (None, len(ranks))  # a rank that is missing leaves no global figure
    ]


def _from_ranks(number: int, ranks: list[RankEpoch]) -> dict:
    slowest_s = max(rank.training_s for rank in ranks)
    counts = [rank.samples for rank in ranks]
    total = None if None in counts else sum(counts)
    first = ranks[0]
    return {
        "epoch": number,
        "train_s": slowest_s,
        "samples": total,
        "throughput_per_s": total / slowest_s if total is not None and slowest_s else None,
        "unit": first.unit,
        "train_loss": first.train_loss,
        "val_loss": first.val_loss,
        "val_accuracy": first.val_accuracy,
        "perplexity": first.perplexity,
        "bleu": first.bleu,
        "is_superseded": False,
        "source": RANKS,
    }


def read_ranks(run: Run) -> list[RankEpoch]:
    """Return the run's rank records; those that cannot be read are named in run.problems."""
    files = read_rank_files(Path(run.results_dir))
    run.problems += [problem for problem in files.problems if problem not in run.problems]
    return files.records
