"""What each scale of a study loses against the baseline and to what: sentences and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from common.console import printable
from common.errors import UserError
from common.rounding import round_half_even
from scaling.diagnose.evidence import advise_on_data, list_evidence, list_monitors
from scaling.diagnose.loss import (
    NAMED_POINTS,
    OWN_WORK,
    RULE,
    Loss,
    LossFactor,
    find_mean,
    find_straggler,
    make_steps,
    share_out,
)
from scaling.runs import Run, Study, make_samples
from scaling.runs.compare import compute_efficiency_pct, divide
from scaling.runs.study import count
from scaling.tables.table import Cell, Table, say, show

FULL_STEP = 0.05  # of a step: communication that a batch is large enough for
DEFINITIONS = (
    "Points: of 100 % efficiency, from GPU-seconds per sample here and at the baseline, epochs "
    "after warm-up; by itself, against its forward, backward and optimizer alone. Data wait, "
    "optimizer and host overhead are the typical rank's; communication is the least that the probe "
    "found on any rank: the others also wait.",
    "With a smaller batch per GPU than the baseline's, every other cause has the points that it "
    "would cost at the baseline's batch; what that saves is the small batch's.",
    RULE,
)


@dataclass(frozen=True)
class Finding:
    """One scale. base: the label of what it is compared with, None when it stands by itself.

    loss: None when no step breakdown was recorded. seen: what its logs show besides. gaps: what
    could not be told, with what to switch on. noun: what throughput counts.
    """

    label: str
    gpus: int
    loss: Loss | None
    base: str | None = None
    base_gpus: int | None = None
    efficiency_pct: float | None = None
    run: Run | None = None
    noun: str = "samples"
    seen: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return self.label + (", by itself" if self.base is None else f" against {self.base}")

    @property
    def headline(self) -> str:
        """The loss in one line: its size, and the causes that stand out."""
        start = self.title
        if self.base is not None:
            start += f": {self.efficiency_pct:.1f} % efficient"
        if self.loss is None:
            return f"{start}; no step breakdown is recorded"
        rest = self.loss.unexplained
        if self.loss.lost_points <= 0:
            return f"{start}: nothing is lost"
        causes = [f"{factor.name} {factor.points:.1f}" for factor in self.named]
        causes = causes or ["no cause stands out"]
        if rest.points >= NAMED_POINTS:
            causes.append(f"{rest.name} {rest.points:.1f}")
        lost = f"{self.loss.lost_points:.1f} points lost"
        return f"{start}, {lost}: {', '.join(causes)}"

    @property
    def named(self) -> tuple[LossFactor, ...]:
        """The factors that stand out, the costliest first."""
        return self.loss.named if self.loss else ()

    @property
    def causes(self) -> list[tuple[str, str]]:
        """Each factor that stands out: a sentence with its numbers, and what to do about it."""
        return [(f"{f.label}: {self.explain(f)}.", f"{self.advise(f)}.") for f in self.named]

    @property
    def rest(self) -> str:
        """What no factor takes, in a sentence; empty without a step breakdown."""
        rest = self.loss and self.loss.unexplained
        return f"{rest.label}: {self.explain(rest)}." if rest else ""

    # ---- Sentences ------------------------------------------------------------------------------

    def explain(self, factor: LossFactor) -> str:
        """Return a factor's numbers, and what it costs."""
        key, points, is_scaled = factor.key, factor.points, self.loss.is_scaled
        text = self._compare_batches() if key == "batch" else self._compare(factor)
        if key == "total":
            return text
        if key in ("communication", "host_overhead") and is_scaled:
            text += ", scaled to the baseline's batch"
        elif key == "imbalance" and points >= 1:
            text += self._describe_straggler()
        elif key == "unexplained":
            text = f"forward and backward: {text}"
            if not self.loss.steps["is_probed"].all():
                text += ", communication included"
            elif points >= 1 and not is_scaled:
                text += (
                    ", slower with the same batch: lower clocks, ranks that are late in turn, or "
                    "cores and memory shared with loaders and other jobs"
                )
        if points is None:
            return f"{text}: not measured"
        some, lost = (round_half_even(abs(n), 1) for n in (points, self.loss.lost_points))
        less = points <= -0.05
        return f"{text}: {some} " + (
            "points less than at the baseline" if less else f"of the {lost} points lost"
        )

    def _compare(self, factor: LossFactor) -> str:
        """`0.21 s of a 0.50 s step at 4 GPUs, 0.03 s of 0.32 s at 1 GPU`."""
        step, total = self.loss.here, self.loss.total
        here, whole, there, base_whole = (
            format_s(seconds, step.step_s)
            for seconds in (factor.here_s, step.step_s, factor.base_s, total.base_s)
        )
        text = f"{here} of a {whole} step at {count(self.gpus, 'GPU')}"
        if self.base is None:
            return text
        is_same = abs(self.loss.base.samples / step.samples - 1) < 0.01
        scaled = "" if is_same else f" for as many {self.noun}"
        return f"{text}, {there} of {base_whole}{scaled} at {count(self.base_gpus, 'GPU')}"

    def _describe_straggler(self) -> str:
        found, n_epochs = find_straggler(self.loss.steps), len(self.loss.steps)
        if found is None:
            return ""
        if found["n_epochs"] <= n_epochs // 2:
            return "; no rank is the slowest in most epochs"
        host = "" if pd.isna(found["host"]) else f" ({found['host']})"
        step_s = self.loss.here.step_s
        own, typical = (format_s(found[key], step_s) for key in ("straggler_s", "typical_s"))
        return (
            f"; rank {found['rank']}{host} is the slowest in {found['n_epochs']} of {n_epochs} "
            f"epochs: it spends {own} per step {OWN_WORK[found['part']]}, a typical rank {typical}"
        )

    def _compare_batches(self) -> str:
        now, then = self.loss.here, self.loss.base
        text = (
            f"{now.samples:.0f} {self.noun} per GPU and step at {count(self.gpus, 'GPU')}, "
            f"{then.samples:.0f} at {count(self.base_gpus or self.gpus, 'GPU')}"
        )
        if not self.loss.is_scaled:
            return f"{text}, so it is not smaller"
        here, there = (f"{1e3 * step.compute_s / step.samples:.3g} ms" for step in (now, then))
        return (
            f"{text}; forward and backward take {here} per {self.noun.removesuffix('s')}, {there} "
            f"there, and what a step costs whatever its batch is shared by fewer {self.noun}; with "
            f"the baseline's batch {round_half_even(self.loss.without_small_batch, 1)} points "
            "would be lost"
        )

    def advise(self, factor: LossFactor) -> str:
        """Return what to do about a factor."""
        run, step = self.run, self.loss.here
        if factor.key == "data":
            return advise_on_data(run) if run else "data that need less work per batch"
        if factor.key == "communication":
            others_s = step.step_s - step.communication_s
            times = factor.here_s * (1 / FULL_STEP - 1) / others_s if others_s > 0 else 1.0
            samples = float(f"{step.samples * max(times, 1.0):.2g}")
            return (
                f"more work between two all-reduces: with about {samples:,.0f} {self.noun} per GPU "
                f"and step, communication would be {100 * FULL_STEP:.0f} % of the step; or a "
                "faster link"
            )
        if factor.key == "imbalance":
            return "check that rank's node: its clocks, other jobs, its share of CPUs and files"
        if factor.key == "batch":
            text = "a larger batch per GPU, or fewer GPUs for this global batch"
            has_no_graph = run is not None and (run.settings or {}).get("cuda_graph") is False
            return text + ("; or --cuda-graph, one launch per pass" if has_no_graph else "")
        monitors = list_monitors(run) if run else []
        uses = f"this run uses {', '.join(monitors)}; " if monitors else ""
        return f"{uses}what is done in every step can be done less often"

    # ---- Text and table -------------------------------------------------------------------------

    def text(self) -> str:
        """Return the finding as text: the causes that stand out first, then what else is known."""
        lines = [("", self.headline)]
        for place, (sentence, advice) in enumerate(self.causes, start=1):
            lines += [("  ", f"{place}. {sentence}"), ("     ", f"To do: {advice}")]
        if self.loss is not None:
            others = (factor for factor in self.loss.factors if factor not in self.named)
            lines.append(("  ", f"Not named: {', '.join(map(_summarise, others))}."))
            lines.append(("  ", self.rest))
        lines += [("  ", f"Seen: {text}.") for text in self.seen]
        lines += [("  ", f"Not known: {text}.") for text in self.gaps]
        return "".join(f"{indent}{printable(line)}\n" for indent, line in lines)

    def table(self) -> Table:
        """Return the finding as a table: one row per factor, the costliest first, the sum last."""
        headers = {
            "cause": "Cause", "place": "Named", "points": "Points lost",
            "here_s": "Here (s per step)", "base_s": "Baseline (s)", "evidence": "From",
            "advice": "To do",
        }  # fmt: skip
        rows = []
        if self.loss is not None:
            factors = [*self.loss.factors, self.loss.unexplained, self.loss.total]
            rows = list(map(self._make_row, factors))
        title = f"Why efficiency is lost: {self.title}"
        remarks = [self.headline, *self.seen, *(f"Not known: {gap}" for gap in self.gaps)]
        return Table("diagnosis", title, headers, rows, DEFINITIONS, tuple(remarks))

    def _make_row(self, factor: LossFactor) -> dict[str, Cell]:
        is_named, noise = factor in self.named, None
        if factor.noise is not None and factor.points is not None:
            noise = f"± {factor.noise:.1f}: twice the standard error over the epochs"
        why = "it has no seconds of its own"
        return {
            "cause": say(factor.label),
            "place": say(self.named.index(factor) + 1 if is_named else "—"),
            "points": show(factor.points, 1, noise, why="not measured"),
            "here_s": show(factor.here_s, 4, why=why),
            "base_s": show(factor.base_s, 4, why=why),
            "evidence": say(self.explain(factor)),
            "advice": say(self.advise(factor) if is_named else "—"),
        }


def _summarise(factor: LossFactor) -> str:
    if factor.points is None:
        return f"{factor.name} (not measured)"
    text = f"{factor.name} {round_half_even(factor.points, 1)}"
    return text + (" (within the noise)" if factor.is_noise else "")


def format_s(seconds: float, step_s: float) -> str:
    """Return seconds in the unit that suits the step: 1.21 s, 210.3 ms, 0.62 ms."""
    if step_s >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.1f} ms" if step_s >= 0.01 else f"{1e3 * seconds:.2f} ms"


# ---- From a study -------------------------------------------------------------------------------


def diagnose(study: Study, jobs: Sequence[str] = ()) -> list[Finding]:
    """Return one finding per scale, the baseline by itself first.

    jobs: only these runs and their scales, instead of the mean over each scale's repeats. Raises
    UserError for a job that no scale has.
    """
    runs = study.runs[study.runs["config"].isin(study.scales["config"])]
    if unknown := set(jobs) - set(runs["name"]):
        raise UserError(
            f"--job {' '.join(sorted(unknown))}: no complete run of this study; there are: "
            f"{', '.join(runs['name'])}"
        )
    chosen = runs[runs["name"].isin(jobs)] if jobs else runs
    steps, lacks = make_steps(study)
    return [
        _diagnose_scale(study, scale, of_scale, steps, lacks)
        for scale in study.scales.itertuples()
        if len(of_scale := chosen[chosen["config"] == scale.config])
    ]


def _diagnose_scale(
    study: Study, scale, runs: pd.DataFrame, steps: pd.DataFrame, lacks: dict[int, list[str]]
) -> Finding:
    """scale: a row of study.scales; runs: those of it that count. steps, lacks: make_steps()."""
    base, base_runs = study.baseline, study.list_runs(study.baseline)["run"]
    is_base, pct = scale.config == base.config, scale.efficiency_pct
    is_compared = not is_base and pd.notna(pct)
    if is_compared and len(runs) < scale.n_runs:
        speedup = divide(runs["throughput_per_s"].mean(), base.throughput_per_s)
        pct = compute_efficiency_pct(speedup, scale.gpus, base.gpus)
    latest = runs["run"].iloc[-1]
    run = study.sources[latest] if isinstance(study.sources[latest], Run) else None
    counted = [*runs["run"], *(base_runs if is_compared else ())]
    gaps = [*scale.left_out, *(gap for at in counted for gap in lacks.get(at, ()))]
    if run is None:
        gaps.append(f"{scale.label}: only its metrics file is known, without a step breakdown")
    if not is_base and not is_compared:
        why = scale.difference or "one of the two has no throughput"
        gaps.append(f"not compared with {base.label}: {why}")
    elif len(study.scales) == 1:
        gaps.append("no other scale to compare with: run the 1-GPU job and a larger one")
    here, there = (steps[steps["run"].isin(each)] for each in (runs["run"], base_runs))
    loss, seen = None, []
    if len(here) and not is_compared:
        loss = share_out(here)
    elif len(here) and len(there):
        loss = share_out(here, there, 100 - float(pct))
    if run is not None:
        samples = study.samples[study.samples["run"] == latest]
        samples = samples if latest == scale.latest else make_samples(run)
        ranks = study.rank_epochs[study.rank_epochs["run"] == latest]
        step = find_mean(here) if len(here) else None
        seen, more = list_evidence(run, samples, ranks, step)
        gaps += more
    against = (base.label, int(base.gpus), float(pct)) if is_compared else (None, None, None)
    told = tuple(seen), tuple(dict.fromkeys(gaps))
    return Finding(scale.label, int(scale.gpus), loss, *against, run, study.noun, *told)
