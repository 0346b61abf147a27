"""A study's diagnosis: what each scale loses against the baseline, and to what."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scaling.diagnose.loss import NAMED_POINTS, Loss, compare, look_at
from scaling.diagnose.parts import RunParts, pool, read_parts
from scaling.diagnose.signs import list_signs
from scaling.diagnose.words import Words
from scaling.runs.run_record import Run
from scaling.runs.study import Scale, Study
from scaling.tables.fixed_work import compute_efficiency


@dataclass(frozen=True)
class Finding:
    """One scale. loss: None when no breakdown was recorded. base: what it is compared with.

    seen: what its logs show besides. gaps: what could not be told, with what to switch on.
    """

    scale: Scale
    base: Scale | None
    efficiency_pct: float | None
    loss: Loss | None
    run: Run | None
    noun: str
    seen: tuple[str, ...]
    gaps: tuple[str, ...]

    @property
    def words(self) -> Words:
        """Only where there is a loss."""
        base_gpus = self.base.gpus if self.base else None
        return Words(self.loss, self.scale.gpus, base_gpus, self.noun)

    @property
    def title(self) -> str:
        if self.base is None:
            return f"{self.scale.label}, by itself"
        return f"{self.scale.label} against {self.base.label}"

    @property
    def headline(self) -> str:
        """The loss in a sentence: its size, and the causes that stand out."""
        if self.loss is None:
            efficient = "" if self.base is None else f"{self.efficiency_pct:.1f} % efficient, but "
            return f"{self.title}: {efficient}no breakdown of its steps is recorded"
        points = f"{self.loss.lost_points:.1f}"
        if self.base is None:
            lost = f"{points} % of a step is neither computing nor optimizer"
        else:
            lost = f"{self.efficiency_pct:.1f} % efficient, {points} points lost"
            if self.loss.lost_points <= 0:
                return f"{self.title}: {self.efficiency_pct:.1f} % efficient: nothing is lost"
        named = [f"{cause.name} {cause.points:.1f}" for cause in self.loss.named]
        named = named or ["no cause stands out"]
        rest = self.loss.unexplained
        if (rest.points or 0.0) >= NAMED_POINTS:
            named.append(f"{rest.name} {rest.points:.1f}")
        causes = ", ".join(named)
        return f"{self.title}: {lost}: {causes}"


def diagnose(study: Study, jobs: Sequence[str] = ()) -> list[Finding]:
    """Return a finding for each scale, the baseline by itself first.

    jobs: only the scales with these runs, each run by itself instead of the mean over repeats.
    """
    scales = [_choose(scale, jobs) for scale in study.scales]
    base = _read(study.baseline)
    return [
        _look(study, scale, base, alone=full is study.baseline)
        for scale, full in zip(scales, study.scales, strict=True)
        if scale is not None
    ]


def _choose(scale: Scale, jobs: Sequence[str]) -> Scale | None:
    if not jobs:
        return scale
    runs = tuple(run for run in scale.runs if run.name in jobs)
    return replace(scale, runs=runs) if runs else None


def _look(
    study: Study, scale: Scale, base_read: tuple[RunParts, list[str]], alone: bool
) -> Finding:
    base, (base_parts, base_gaps) = study.baseline, base_read
    parts, gaps = base_read if scale is base else _read(scale)
    gaps = list(gaps)
    efficiency = None if alone else compute_efficiency(study, scale, "throughput")
    if not alone and (not study.is_compared(scale) or efficiency is None):
        why = scale.difference or "one of the two has no throughput"
        gaps.append(f"not compared with {base.label}: {why}")
        efficiency = None
    elif alone and len(study.scales) == 1:
        gaps.append("no other scale to compare with: run the 1-GPU job, the baseline, and a larger")
    loss, against = look_at(parts) if parts.epochs else None, None
    if efficiency is not None:
        gaps += [gap for gap in base_gaps if gap not in gaps]
        loss, against = None, base
        if parts.epochs and base_parts.epochs:
            loss = compare(parts, base_parts, 100 - 100 * float(efficiency))
    run = scale.latest.run
    seen, more = list_signs(run, parts.mean if parts.epochs else None) if run else ([], [])
    percent = None if efficiency is None else 100 * float(efficiency)
    return Finding(
        scale, against, percent, loss, run, study.word.lower(), tuple(seen), tuple(gaps + more)
    )


def _read(scale: Scale) -> tuple[RunParts, list[str]]:
    """Return the breakdown over a scale's runs; a metrics file of others has none."""
    known = [read_parts(measured.run) for measured in scale.runs if measured.run is not None]
    if not known:
        gap = f"{scale.label}: known by its metrics file alone, which breaks no step down"
        return RunParts((), (), 1, False, False, ()), [gap]
    parts = pool(known)
    return parts, list(parts.gaps)
