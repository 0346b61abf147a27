"""Which runs may be compared: those that were trained with the same settings."""

import re

from scaling.runs.run import Run
from scaling.runs.workloads import NOUNS, SCORES

# run.json's settings that must agree before two runs are compared; the batch, too (see there).
# dataset.train: the rehearsal's digits are not TinyImageNet.
COMPARED_SETTINGS = (
    "workload", "scaling", "strategy", "model", "model_size", "seq_len", "image_size", "input",
    "cuda_graph", "trainer_sha256", "precision", "device", "optimizer", "num_workers", "epochs",
    "gpu_name", "versions.torch", "dataset.train", "dataset.classes", "limit_batches", "compile",
    "activation_checkpointing", "grad_compression", "bucket_cap_mb", "tensor_parallel",
)  # fmt: skip
WORK_TOLERANCE = 0.01  # each rank drops its last, incomplete batch
ABSENT = "not recorded"  # as it is shown; a setting that is there and null is "none"
_NOTHING = (None, ABSENT)  # an older record and a null one do not differ
_PROFILER = re.compile(r"(?<!\S)--(?:profile(?:r|[-_]mode)?|nvtx)(?![^\s=])[\s=]*(\S*)")


def look_up(settings: dict | None, dotted_name: str) -> object:
    """Return a setting by its dotted name, ABSENT when it is not there."""
    value: object = settings
    for key in dotted_name.split("."):
        value = value.get(key, ABSENT) if isinstance(value, dict) else ABSENT
    return value


def is_same_unit(unit: str | None, other: str | None) -> bool:
    """Whether two throughputs count the same: images are samples."""
    return NOUNS.get(unit, unit) == NOUNS.get(other, other)


def is_profiled(source) -> bool:
    """Whether a profiler ran, by the command line of a run or a metrics file."""
    argv = (source.settings or {}).get("argv") or ""
    found = _PROFILER.search(" ".join(map(str, argv)) if isinstance(argv, list) else str(argv))
    return bool(found) and found[1].lower() not in ("0", "false", "no", "none")


def list_work_differences(run, base, name: str = "baseline") -> list[str]:
    """List what two runs did besides their settings: profiler, validation, the work of an epoch.

    name: what the other is called.
    What an epoch has is compared at one scale alone: strong scaling has fewer steps on more GPUs.
    """
    found = []
    for what, judge in (("profiler", is_profiled), ("validation", _has_validation)):
        here, there = judge(run), judge(base)
        if None not in (here, there) and here != there:
            found.append(f"{what} {'on' if here else 'off'}, {name} {'on' if there else 'off'}")
    for field in ("samples", "steps") if (run.gpus, run.nodes) == (base.gpus, base.nodes) else ():
        here, there = (
            max((getattr(epoch, field) or 0 for epoch in _list_epochs(each)), default=0)
            for each in (run, base)
        )
        if here and there and abs(here / there - 1) > WORK_TOLERANCE:
            what = NOUNS.get(run.unit, field) if field == "samples" else field
            return [*found, f"{here:.0f} {what} per epoch, {name} {there:.0f}"]
    return found


def _list_epochs(source) -> list:
    return source.metrics.epochs if source.metrics else []


def _has_validation(source) -> bool | None:
    """Whether any epoch was validated, None where no metrics file says."""
    names = ("val_loss", *(score.column for score in SCORES))
    epochs = _list_epochs(source)
    return any(getattr(e, name) is not None for e in epochs for name in names) if epochs else None


def list_differences(
    settings: dict, base: dict, names: tuple[str, ...] = COMPARED_SETTINGS
) -> list[str]:
    """List the settings that must agree and do not, as `name value, baseline value`."""
    # Weak scaling fixes the batch of each GPU, strong scaling the batch of all together.
    modes = (settings.get("scaling"), base.get("scaling"))
    batches = ("global_batch_size",) if modes == ("strong", "strong") else ("batch_size_per_gpu",)
    if modes == (None, None):  # a file of others says neither: one of the two must agree
        both = ("batch_size_per_gpu", "global_batch_size")
        agree = any(look_up(settings, name) == look_up(base, name) for name in both)
        batches = () if agree else both
    differences = []
    for name in (*names, *batches):
        here, there = look_up(settings, name), look_up(base, name)
        if here != there and not (here in _NOTHING and there in _NOTHING):
            differences.append(f"{name} {_show(here)}, baseline {_show(there)}")
    return differences


def _show(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] + "…"


def compare(run, base) -> tuple[str | None, str | None]:
    """Return (what differs, what to know): the first None when the two may be compared.

    Both have name, nodes, gpus, unit, metrics and settings (run.json's fields, None when unknown).
    """
    if run is base:
        return None, None
    if not is_same_unit(run.unit, base.unit):
        return f"counted in {run.unit}, the baseline in {base.unit}", None
    unknown = [each for each in (run, base) if each.settings is None]
    if len(unknown) == 1:
        return f"the settings of job {unknown[0].name} are unknown (no run.json)", None
    differences, note = list_work_differences(run, base), None
    if unknown:
        note = "settings unknown (no run.json)" if isinstance(run, Run) else None
        return "; ".join(differences) or None, note
    names = COMPARED_SETTINGS
    here, there = (each.settings.get("implementation") for each in (run, base))
    if here != there and 1 in (run.gpus, base.gpus):
        note = f"implementation {here}, baseline {there}: one GPU shares nothing, so not compared"
    else:
        names += ("implementation",)
    differences += list_differences(run.settings, base.settings, names)
    return "; ".join(differences) or None, note
