"""An epoch as a person sees it: one line in the log, and before it a bar on a terminal."""

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """One epoch as the whole job saw it: sums over all ranks, each sample counted once.

    Accuracies (0 to 1) are None where they have no meaning; BLEU (0 to 100) is translation's.
    """

    epoch: int  # from 0; the log's `Epoch [1/3]` is 0
    lr: float  # of the epoch's last step
    train_loss: float
    val_loss: float
    samples: int  # trained on, by all ranks: images, or tokens where the unit is tokens/s
    slowest_s: float  # training seconds of the slowest rank
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    val_bleu: float | None = None
    has_perplexity: bool = True  # of a loss in nats, where there is no other score

    @property
    def throughput(self) -> float:
        """Global samples per second: all ranks' samples / the slowest rank's seconds."""
        return self.samples / self.slowest_s

    @property
    def score(self) -> str:
        """What the line shows beside the loss: accuracy, bleu, perplexity, or "" for nothing."""
        if self.val_bleu is not None:
            return "bleu"
        if self.val_accuracy is not None:
            return "accuracy"
        return "perplexity" if self.has_perplexity else ""

    def scores(self) -> dict[str, float]:
        """The figures of `score` by name."""
        if self.score == "accuracy":
            return {"train_accuracy": self.train_accuracy, "val_accuracy": self.val_accuracy}
        if self.score == "bleu":
            return {"val_bleu": self.val_bleu}
        if not self.score:
            return {}
        losses = {"train_perplexity": self.train_loss, "val_perplexity": self.val_loss}
        return {name: perplexity(loss) for name, loss in losses.items()}


def format_epoch_line(result: EpochResult, epochs: int, unit: str) -> str:
    """Format the line that the log has for each epoch and that the tables are filled from."""
    score = {
        "": "",
        "accuracy": " | Accuracy (train, val): {train_accuracy:.2%}, {val_accuracy:.2%}",
        "perplexity": " | Perplexity (train, val): {train_perplexity:.2f}, {val_perplexity:.2f}",
        "bleu": " | BLEU (val): {val_bleu:.2f}",
    }[result.score].format(**result.scores())
    return (
        f"Epoch [{result.epoch + 1}/{epochs}] LR: {result.lr:.6f}"
        f" | Loss (train, val): {result.train_loss:.3f}, {result.val_loss:.3f}"
        f"{score}"
        f" | Throughput: {result.throughput:.1f} {unit}"
    )


def format_best(results: list[EpochResult]) -> list[str]:
    """The log's last lines on how well the model learnt."""
    best_loss = min(result.val_loss for result in results)
    lines = [f"Best validation loss: {best_loss:.3f}"]
    score = results[-1].score
    if score == "accuracy":
        best = max(result.val_accuracy for result in results)
        return [*lines, f"Best validation accuracy: {best:.2%}"]
    if score == "bleu":
        return [*lines, f"Best BLEU: {max(result.val_bleu for result in results):.2f}"]
    if not score:
        return lines
    return [*lines, f"Best validation perplexity: {perplexity(best_loss):.2f}"]


def perplexity(loss: float) -> float:
    """e to the loss in nats a token; infinite where that is no number any more."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def show_progress(steps: Iterable, total: int, what: str, *, is_main: bool) -> Iterator:
    """Pass on `steps`; on rank 0 with a terminal at stderr, draw a bar that goes when they end.

    In a log file the epoch lines are the progress, and where rich is not installed, too.
    """
    if is_main and sys.stderr.isatty():
        try:  # here: a job has no terminal, and need not load it
            from rich.console import Console
            from rich.progress import track
        except ImportError:
            pass
        else:
            console = Console(stderr=True)
            yield from track(steps, what, total=total, console=console, transient=True)
            return
    yield from steps
