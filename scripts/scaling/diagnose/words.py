"""The sentences of a diagnosis: each cause with the seconds that its points were made from."""

from scaling.diagnose.loss import Cause, Loss, find_late
from scaling.diagnose.signs import advise_on_data, list_monitors
from scaling.read.numbers import round_half_even
from scaling.runs.run_record import Run

FULL_STEP = 0.05  # of a step: communication that a batch is large enough for


def say_points(points: float | None) -> str:
    return "—" if points is None else round_half_even(points, 1)


def say_s(seconds: float, step_s: float) -> str:
    """Return seconds in the unit that suits the step: 1.21 s, 210.3 ms, 0.62 ms."""
    if step_s >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.1f} ms" if step_s >= 0.01 else f"{1e3 * seconds:.2f} ms"


def say_short(seconds: float) -> str:
    """Return a time of any size with three digits: 1.24 ms, 496 µs."""
    units = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
    size, unit = next((each for each in units if seconds >= each[0]), units[-1])
    places = max(2 - len(f"{int(seconds / size)}") + 1, 0)
    return f"{seconds / size:.{places}f} {unit}"


def say_gpus(gpus: int) -> str:
    return f"{gpus} GPU{'' if gpus == 1 else 's'}"


class Words:
    """Says what a loss is made of; gpus and base_gpus name the two configurations."""

    def __init__(self, loss: Loss, gpus: int, base_gpus: int | None, noun: str = "samples"):
        self.loss, self.gpus, self.base_gpus, self.noun = loss, gpus, base_gpus, noun
        self.step = loss.here.mean

    def explain(self, cause: Cause) -> str:
        """Return a cause with its numbers, and what it costs."""
        what = getattr(self, f"_explain_{cause.key}", self._explain_part)(cause)
        if cause.points is None:
            return f"{what}: not measured"
        return f"{what}: {self._say_cost(cause.points)}"

    def _say_cost(self, points: float) -> str:
        if self.loss.base is None:
            return f"{say_points(points)} % of the step"
        lost = self.loss.lost_points
        if points <= -0.05:
            return f"{say_points(-points)} points less than at the baseline"
        if points > lost + 0.05:
            return f"{say_points(points)} points, more than the {say_points(lost)} lost in all"
        return f"{say_points(max(points, 0.0))} of the {say_points(lost)} points lost"

    def _explain_part(self, cause: Cause) -> str:
        text = f"{self._compare(cause)}"
        if cause.key == "data" and self.step.copy_s > 0.01 * self.step.step_s:
            text += f", {say_s(self.step.copy_s, self.step.step_s)} of it copying"
        is_reckoned = self.loss.without_small_batch is not None and cause.key != "data"
        if is_reckoned and cause.key != "imbalance":
            text += ", reckoned at the baseline's batch"
        return text

    def _compare(self, cause: Cause) -> str:
        """`0.21 s of a 0.50 s step at 4 GPUs, 0.03 s of 0.32 s at 1 GPU`."""
        step_s = self.step.step_s
        here = say_s(cause.here_s, step_s)
        text = f"{here} of a {say_s(step_s, step_s)} step at {say_gpus(self.gpus)}"
        if self.loss.base is None:
            return text
        base = self.loss.base.mean
        base_step_s = base.cost("step") * self.step.samples
        there = f"{say_s(cause.base_s, step_s)} of {say_s(base_step_s, step_s)}"
        is_same = abs(base.samples / self.step.samples - 1) < 0.01
        scaled = "" if is_same else f" for as many {self.noun}"
        return f"{text}, {there}{scaled} at {say_gpus(self.base_gpus)}"

    def _explain_imbalance(self, cause: Cause) -> str:
        text = self._compare(cause)
        found = find_late(self.loss.here)
        if found is None or cause.points is None or cause.points < 1:
            return text
        late, times = found
        epochs = len(self.loss.here.epochs)
        if times <= epochs // 2:
            return f"{text}, another rank each time"
        step_s, host = self.step.step_s, f" ({late.host})" if late.host else ""
        return (
            f"{text}; rank {late.rank}{host} is the slow one in {times} of {epochs} epochs: "
            f"{late.part} takes {say_s(late.its_s, step_s)}, a typical rank "
            f"{say_s(late.typical_s, step_s)}"
        )

    def _explain_batch(self, cause: Cause) -> str:
        if self.loss.base is None:
            return "there is no other batch to compare with"
        now, then = self.step, self.loss.base.mean
        text = (
            f"{now.samples:.0f} {self.noun} a GPU and step at {say_gpus(self.gpus)}, "
            f"{then.samples:.0f} at {say_gpus(self.base_gpus)}"
        )
        if self.loss.without_small_batch is None:
            return f"{text}, so not smaller"
        each, there = (say_short(parts.cost("compute")) for parts in (now, then))
        fixed = say_s(now.optimizer_s + now.between_s + now.communication_s, now.step_s)
        return (
            f"{text}; forward and backward take {each} for one of them, {there} there, and the "
            f"{fixed} a step that do not shrink with it fall on fewer; with the baseline's batch "
            f"{say_points(self.loss.without_small_batch)} points would be lost"
        )

    def explain_rest(self) -> str:
        """Return what no cause takes, with what forward and backward did."""
        rest = self.loss.unexplained
        if self.loss.base is None:
            text = f"forward, backward and optimizer: {self._compare(rest)}"
            return f"{text}; whether that could be less, only a baseline shows"
        text = f"forward and backward: {self._compare(rest)}"
        if not self.loss.here.is_probed:
            text += ", communication being in it"
        elif rest.points >= 1 and self.loss.without_small_batch is None:
            text += self._explain_slow_compute()
        return f"{text}: {self._say_cost(rest.points)}"

    def _explain_slow_compute(self) -> str:
        step, step_s = self.step, self.step.step_s
        if step.compute_s > 1.1 * step.probed_s:
            alone = say_s(step.probed_s, step_s)
            return (
                f" (the probe: {alone}): in training the ranks are late in turns, or share their "
                "cores with loaders and other jobs"
            )
        return ", slower with the same batch: lower clocks, or shared cores and memory"

    def advise(self, cause: Cause, run: Run | None) -> str:
        """Return what to do about a cause."""
        if cause.key == "data":
            return advise_on_data(run) if run else "data that need less work for each batch"
        if cause.key == "communication":
            others_s = self.step.step_s - self.step.communication_s
            factor = cause.here_s * (1 / FULL_STEP - 1) / others_s if others_s > 0 else 1.0
            most = float(f"{self.step.samples * max(factor, 1.0):.2g}")
            return (
                f"more work between two all-reduces: at about {most:,.0f} {self.noun} a GPU and "
                f"step this one would be {100 * FULL_STEP:.0f} % of it; or a faster link"
            )
        if cause.key == "imbalance":
            return "look at that rank's node: clocks, other jobs, its share of the CPUs and files"
        if cause.key == "batch":
            text = "a larger batch per GPU, or fewer GPUs for this global batch"
            is_off = run is not None and (run.settings or {}).get("cuda_graph") is False
            return text + ("; or --cuda-graph, one launch a pass" if is_off else "")
        known = list_monitors(run) if run else []
        done = f"this run was told to: {', '.join(known)}; " if known else ""
        return f"{done}what is done in every step can be done less often"
