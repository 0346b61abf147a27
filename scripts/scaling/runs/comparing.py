"""Which runs may be set against each other, and which figures ask for a second look."""

from fractions import Fraction

from scaling.read.numbers import round_half_even, to_fraction
from scaling.runs.run_record import Run
from scaling.tables.cells import MISSING, Cell, add_note

SUPERLINEAR_PCT = 105  # up to here it is noise
GOOD_ONE_NODE_PCT, GOOD_NODES_PCT, POOR_PCT = 85, 75, 70

# run.json's settings that must agree before two runs are compared; the batch, too (see there).
COMPARED_SETTINGS = (
    "workload",
    "scaling",
    "strategy",
    "model",
    "image_size",
    "input",
    "naive",
    "cuda_graph",
    "trainer_sha256",
    "precision",
    "device",
    "optimizer",
    "num_workers",
    "epochs",
    "gpu_name",
    "versions.torch",
    "dataset.train",  # the rehearsal's digits are not TinyImageNet
    "dataset.classes",
    "limit_batches",
)
_ABSENT = "not recorded"  # as it is shown; a setting that is there and null is "none"
_NOTHING = (None, _ABSENT)  # an older record and a null one do not differ


def compare_settings(run: Run, baseline: Run) -> tuple[bool, str | None]:
    """Return whether two runs may be compared, and a note: what differs or is not known."""
    known, base = run.settings, baseline.settings
    if known is None and base is None:
        return True, "settings unknown (no run.json)"
    if known is None or base is None:
        without = run if known is None else baseline
        return False, f"not compared: the settings of job {without.id} are unknown (no run.json)"
    differences = list_differences(known, base)
    if differences:
        return False, f"not compared with job {baseline.id}: {'; '.join(differences)}"
    return True, None


def list_differences(
    known: dict, base: dict, names: tuple[str, ...] = COMPARED_SETTINGS
) -> list[str]:
    """List the settings that must agree and do not, as `name value, baseline value`."""
    # Weak scaling fixes the batch of each GPU, strong scaling the batch of all together.
    modes = (known.get("scaling"), base.get("scaling"))
    strong = modes == ("strong", "strong")
    batches = ("global_batch_size",) if strong else ("batch_size_per_gpu",)
    if modes == (None, None):  # a file of others says neither: one of the two must agree
        both = ("batch_size_per_gpu", "global_batch_size")
        agree = any(_look_up(known, n) == _look_up(base, n) for n in both)
        batches = () if agree else both
    differences = []
    for name in (*names, *batches):
        here, there = _look_up(known, name), _look_up(base, name)
        if here != there and not (here in _NOTHING and there in _NOTHING):
            differences.append(f"{name} {_show(here)}, baseline {_show(there)}")
    return differences


def _look_up(settings: dict, dotted_name: str) -> object:
    value: object = settings
    for key in dotted_name.split("."):
        value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _show(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"


def name_band(efficiency_pct: Fraction | float | None, nodes: int | None) -> str:
    """Return good, fair or poor: good is above 85 % on one node, above 75 % across nodes."""
    if efficiency_pct is None:
        return MISSING
    good = GOOD_NODES_PCT if (nodes or 1) > 1 else GOOD_ONE_NODE_PCT
    return "good" if efficiency_pct > good else "poor" if efficiency_pct < POOR_PCT else "fair"


def check_efficiency(cell: Cell) -> Cell:
    """Note an efficiency that cannot be: more GPUs do not make each of them faster."""
    if cell.value is None or to_fraction(cell.value) <= SUPERLINEAR_PCT:
        return cell
    return add_note(
        cell,
        f"{cell.text} % is above {SUPERLINEAR_PCT} %, more than ideal: most often the 1-GPU run "
        "was slowed down. Look there for data_wait_s, other jobs on the node and a cold file "
        "cache, and run it again before you believe the ratio",
    )


def check_expected(cell: Cell, expected: dict, unit: str) -> Cell:
    """Note a throughput outside of what the cluster's profile expects, with both numbers.

    expected: `throughput`, `tolerance_pct` (of it), and perhaps `source`.
    """
    measured = None if cell.value is None else to_fraction(cell.value)
    usual, tolerance = to_fraction(expected["throughput"]), to_fraction(expected["tolerance_pct"])
    if measured is None or not usual:
        return cell
    off_pct = (measured / usual - 1) * 100
    if abs(off_pct) <= tolerance:
        return cell
    side = "above" if off_pct > 0 else "below"
    source = f", {expected['source']}" if expected.get("source") else ""
    return add_note(
        cell,
        f"{cell.text} {unit} is {round_half_even(abs(off_pct), 1)} % {side} the "
        f"{expected['throughput']:.10g} {unit} that the cluster's profile expects "
        f"(± {expected['tolerance_pct']:.10g} %{source})",
    )
