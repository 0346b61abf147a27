"""The workloads and their scores: what the tables, charts and the report call a run's figures.

A new score needs its name in the trainer's epoch line and an entry in SCORES, nothing else.
"""

from dataclasses import dataclass

DEFAULT_WORKLOAD = "tinyimagenet"
NOUNS = {"img/s": "samples", "samples/s": "samples", "tokens/s": "tokens"}


def name_noun(unit: str | None) -> str:
    """Return what a unit counts: of one that is not ours the word before the /s."""
    return NOUNS.get(unit or "samples/s") or unit.removesuffix("/s")


@dataclass(frozen=True)
class Score:
    """How good the model is, beside the loss.

    log_key: the figure of the epoch line that the README's tables show, under `header`.
    column: of the epochs frame (validation), drawn as `title` in `unit` after `factor`.
    """

    name: str
    log_key: str
    header: str
    column: str
    title: str
    unit: str = ""
    factor: float = 1.0
    places: int = 3

    @property
    def val_log_key(self) -> str:
        return self.log_key.replace("train_", "val_")

    @property
    def record_keys(self) -> tuple[str, ...]:
        """What rank files and metrics files call it, the most exact first."""
        name = self.column.removeprefix("val_")
        return (f"val_{name}_global", f"val_{name}", f"validation_{name}", self.column)

    @property
    def axis(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


ACCURACY = Score(
    "accuracy", "train_accuracy_pct", "Train Acc ({of})", "val_accuracy", "Validation accuracy",
    "%", 100.0, 2,
)  # fmt: skip
PERPLEXITY = Score(
    "perplexity", "train_perplexity", "Train Perplexity ({of})", "perplexity",
    "Validation perplexity",
)  # fmt: skip
BLEU = Score("BLEU", "val_bleu", "Val BLEU ({of})", "bleu", "BLEU (validation)")
SCORES = (ACCURACY, PERPLEXITY, BLEU)


@dataclass(frozen=True)
class Workload:
    """What a workload's tables show: the unit of throughput, and the score beside the loss."""

    name: str
    unit: str = "img/s"
    score: Score = ACCURACY

    @property
    def noun(self) -> str:
        return name_noun(self.unit)


_KNOWN = (
    Workload(DEFAULT_WORKLOAD),
    Workload("minimal"),
    Workload("gpt2", "tokens/s", PERPLEXITY),
    Workload("translation", "tokens/s", BLEU),
    Workload("spiral", "samples/s"),
)
WORKLOADS = {each.name: each for each in _KNOWN}


def describe_workload(name: str, runs: list) -> Workload:
    """Return what a workload's tables show; one of your own is judged by its runs' epoch lines."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    lasts = [run.attempt.last for run in runs if run.id and run.attempt and run.attempt.last]
    if not lasts:
        return Workload(name, "samples/s")
    known = (each for each in SCORES if lasts[-1].get(each.log_key) is not None)
    score = next(known, ACCURACY)
    return Workload(name, lasts[-1].unit, score)
