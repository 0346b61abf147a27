"""Why efficiency is lost: hand-made records with known answers, and what the logs show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from diagnosis_runs import make_record, rank, write_known_run
from run_folders import put, write_run
from scaling.diagnose.logs import describe_transport, read_gpu_loads, read_transport
from scaling.diagnose.loss import compare, look_at
from scaling.diagnose.parts import RunParts, StepParts, break_down
from scaling.diagnose.study import diagnose
from scaling.diagnose.text import make_grid, make_text, write_finding
from scaling.diagnose.words import Words
from scaling.read.rank_json import parse_rank_record
from scaling.runs.find import find_runs
from scaling.runs.study import make_study_of_runs

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/diagnose.py"
BASE = rank()  # 0.32 s a step: 0.03 waiting, 0.27 forward and backward, 0.02 optimizer


def find(root: Path, jobs: tuple[str, ...] = (), **options):
    """The findings of the runs below root, the baseline's first."""
    return diagnose(make_study_of_runs(find_runs(root), "tinyimagenet", **options), jobs)


def points(finding) -> dict[str, float | None]:
    found = {cause.key: cause.points for cause in finding.loss.causes}
    return {**found, "unexplained": finding.loss.unexplained.points}


def names(finding) -> list[str]:
    return [cause.key for cause in finding.loss.named]


# ---- The arithmetic -------------------------------------------------------------------------

# Four ranks' steps, and the points that each cause must get. A step of 0.50 s against 0.32 s is
# 64 % efficient, 0.40 s is 80 %.
SLOW, FAST = rank(own=0.45), rank(own=0.27, waits=0.18)
CASES = {
    "data": ([rank(data=0.21)] * 4, {"data": 36.0}),
    "copying counts as data": ([rank(copy=0.18)] * 4, {"data": 36.0}),
    "communication": ([rank(comm=0.18)] * 4, {"communication": 36.0}),
    "between the steps": ([rank(other=0.18)] * 4, {"between": 36.0}),
    "one rank computes slowly": ([FAST, SLOW, FAST, FAST], {"imbalance": 36.0}),
    "a node of two computes slowly": ([FAST, FAST, SLOW, SLOW], {"imbalance": 36.0}),
    "all compute more slowly": ([rank(own=0.45)] * 4, {"unexplained": 36.0}),
    "the optimizer takes longer": ([rank(optimizer=0.2)] * 4, {"unexplained": 36.0}),
    "two causes": ([rank(data=0.13, comm=0.08)] * 4, {"data": 20.0, "communication": 16.0}),
    "all at once": (
        # Rank 3 computes for 0.04 s longer than the others, who wait for it.
        [rank(data=0.07, own=0.29, comm=0.03, waits=0.04, other=0.05)] * 3
        + [rank(data=0.07, own=0.33, comm=0.03, other=0.05)],
        {"data": 8.0, "communication": 6.0, "imbalance": 8.0, "between": 10.0, "unexplained": 4.0},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_part_of_a_longer_step_is_its_own_cause(tmp_path, case):
    ranks, expected = CASES[case]
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 4, "11", ranks)
    _, finding = find(tmp_path)
    assert finding.loss.lost_points == pytest.approx(36.0, abs=0.05)
    wanted = dict.fromkeys(points(finding), 0.0) | expected
    assert points(finding) == pytest.approx(wanted, abs=0.05)
    assert sum(points(finding).values()) == pytest.approx(finding.loss.lost_points)
    assert set(names(finding)) == {k for k, p in expected.items() if k != "unexplained"}
    ranked = [cause.points for cause in finding.loss.named]
    assert ranked == sorted(ranked, reverse=True)


def test_the_rank_that_waits_least_is_the_slow_one_not_the_network(tmp_path):
    """exposed_comm_s is 0.18 s a step on three ranks of four: none of it is communication."""
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 2, 2, "11", [FAST, FAST, FAST, SLOW])
    _, finding = find(tmp_path)
    assert names(finding) == ["imbalance"]
    text = write_finding(finding)
    assert "rank 3 (node2) is the slow one in 2 of 2 epochs: forward and backward" in text
    assert "takes 450.0 ms, a typical rank 270.0 ms" in text


@pytest.mark.parametrize("probe", [True, False])
def test_one_slow_loader_is_an_imbalance_with_and_without_the_probe(tmp_path, probe):
    """The others wait for its data in the all-reduce, where the probe cannot see it."""
    ranks = [rank(waits=0.18), rank(data=0.21), rank(waits=0.18), rank(waits=0.18)]
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 4, "11", ranks, probe=probe, probe_waits=0.0)
    _, finding = find(tmp_path)
    assert names(finding) == ["imbalance"]
    assert points(finding)["imbalance"] == pytest.approx(36.0, abs=0.05)
    assert "rank 1 (node1) is the slow one in 2 of 2 epochs: waiting for data" in write_finding(
        finding
    )


def test_without_the_probe_communication_is_not_guessed(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 2, "11", [rank(comm=0.18)] * 2, probe=False)
    _, finding = find(tmp_path)
    assert points(finding)["communication"] is None and names(finding) == []
    assert points(finding)["unexplained"] == pytest.approx(36.0, abs=0.05)
    text = write_finding(finding)
    assert "exposed communication (not measured)" in text
    assert "communication being in it" in text
    assert "job 11: communication was not measured" in text and "--no-probe" in text


def test_records_without_the_probes_passes_use_what_they_have(tmp_path):
    """Ranks' files of others: exposed_comm_s alone, no probe."""
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    folder = write_known_run(tmp_path, 1, 4, "11", [FAST, SLOW, FAST, FAST])
    for path in folder.glob("results/11/rank*.json"):
        put(path, json.dumps({**json.loads(path.read_text()), "probe": None}))
    _, finding = find(tmp_path)
    assert points(finding)["imbalance"] == pytest.approx(36.0, abs=0.05)
    assert points(finding)["communication"] == pytest.approx(0.0, abs=0.05)


def test_a_disturbed_probe_makes_no_slow_rank(tmp_path):
    """Its pass was twice as fast on rank 0 as in any training: that is no imbalance."""
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    lucky, usual = rank(own=0.13, comm=0.05, waits=0.14), rank(own=0.27, comm=0.05)
    write_known_run(tmp_path, 1, 2, "11", [lucky, usual])
    _, finding = find(tmp_path)
    assert finding.loss.lost_points == pytest.approx(13.5, abs=0.05)
    assert points(finding)["imbalance"] == pytest.approx(0.0, abs=0.05)
    assert names(finding) == ["communication"]


def test_the_probe_cannot_find_more_work_than_the_training_had(tmp_path):
    """Rank 1's probe was disturbed: 0.50 s for a pass that takes 0.27 s in every step."""
    folder = write_known_run(tmp_path, 1, 2, "11", [rank(comm=0.05)] * 2)
    for path in folder.glob("results/11/rank1_*.json"):
        record = json.loads(path.read_text())
        record["probe"]["no_sync_pass_s"] = 0.50
        put(path, json.dumps(record))
    (alone,) = find(tmp_path)
    assert points(alone)["imbalance"] == pytest.approx(0.0, abs=0.05)
    assert points(alone)["communication"] == pytest.approx(100 * 0.05 / 0.37, abs=0.05)


def test_a_baseline_of_several_gpus_has_parts_of_its_own(tmp_path):
    """No 1-GPU run: what two GPUs wait for and send already is no loss of eight."""
    two = rank(own=0.22, comm=0.05)
    write_known_run(tmp_path, 1, 2, "10", [two] * 2)
    write_known_run(tmp_path, 1, 8, "11", [rank(own=0.22, comm=0.15, waits=0.08)] * 7
                    + [rank(own=0.30, comm=0.15)])  # fmt: skip
    alone, finding = find(tmp_path)
    assert names(alone) == ["communication", "data"]
    assert points(finding)["communication"] == pytest.approx(20.0, abs=0.05)
    assert points(finding)["imbalance"] == pytest.approx(16.0, abs=0.05)
    assert "50.0 ms of 320.0 ms at 2 GPUs" in write_finding(finding)


def test_what_is_not_explained_is_in_the_headline(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 2, "11", [rank(data=0.09, own=0.39)] * 2)
    _, finding = find(tmp_path)
    assert finding.headline.endswith("36.0 points lost: data wait 12.0, not explained 24.0")


def test_an_older_workshops_run_without_json_says_what_it_lacks(tmp_path):
    write_run(tmp_path, 1, 1, "10", record={}, throughput=700.0)
    write_run(tmp_path, 1, 2, "11", record={}, throughput=1050.0)
    _, finding = find(tmp_path)
    assert finding.loss is None
    assert "75.0 % efficient, but no breakdown of its steps is recorded" in finding.headline
    assert any("job 11: no rank<r>_results_epoch<e>.json" in gap for gap in finding.gaps)


TIMES = st.floats(0, 1e3)
RANKS = st.lists(
    st.fixed_dictionaries(
        dict.fromkeys(("data", "own", "comm", "waits", "optimizer", "other", "copy"), TIMES)
    ),
    min_size=1, max_size=5,
)  # fmt: skip


def read_steps(ranks: list[dict], batch: int, passes: int, probe: bool) -> RunParts:
    records = [
        parse_rank_record(make_record(n, 1, parts, 0.001, batch, passes, probe, parts["waits"]),
                          Path(f"rank{n}_results_epoch1.json"))
        for n, parts in enumerate(ranks)
    ]  # fmt: skip
    step, late = break_down(records, passes)
    return RunParts((step,), (late,), passes, probe or len(ranks) == 1, True, ())


@settings(deadline=None)  # the machine is shared
@given(RANKS, RANKS, st.sampled_from([(512, 1), (64, 1), (64, 8)]), st.booleans())
def test_whatever_the_ranks_clocks_say_the_parts_add_up(here, base, shape, probe):
    now, then = read_steps(here, *shape, probe), read_steps(base, 512, 1, True)
    for step in (now.mean, then.mean):
        parts = [step.data_s, step.communication_s, step.imbalance_s, step.optimizer_s,
                 step.between_s, step.compute_s]  # fmt: skip
        assert sum(parts) == pytest.approx(step.step_s)
        assert min(parts) >= -1e-9 * step.step_s
    loss = compare(now, then)
    shares = [cause.points or 0.0 for cause in (*loss.causes, loss.unexplained)]
    scale = max(map(abs, shares))
    assert sum(shares) == pytest.approx(loss.lost_points, abs=1e-6 * max(scale, 1))
    alone = look_at(now)
    for found, base_gpus in ((loss, len(base)), (alone, None)):
        words = Words(found, len(here), base_gpus)
        texts = [words.explain(c) + words.advise(c, None) for c in found.causes]
        assert not {"nan", "inf"} & set(" ".join([*texts, words.explain_rest()]).split())


def one_step(**seconds: float) -> RunParts:
    """A run of one epoch, with these parts and no others."""
    samples = seconds.pop("samples")
    parts = dict.fromkeys(("data_s", "copy_s", "communication_s", "imbalance_s", "optimizer_s",
                           "between_s", "compute_s"), 0.0) | seconds  # fmt: skip
    step_s = sum(parts.values())
    step = StepParts(step_s, samples, **parts, probed_s=parts["compute_s"])
    return RunParts((step,), (None,), 1, True, True, ())


def test_a_baseline_that_computes_nothing_is_divided_by_all_the_same():
    loss = compare(one_step(samples=64, compute_s=0.1), one_step(samples=512, data_s=0.4))
    assert loss.lost_points == pytest.approx(50.0)
    shares = {cause.key: cause.points for cause in loss.causes}
    assert shares["data"] == pytest.approx(-50.0) and shares["batch"] == 0


@pytest.mark.parametrize(("samples", "communication"), [(512, 0.0), (1024, 20.0)])
def test_only_the_same_batch_bounds_the_probe(samples, communication):
    """A larger batch may well take less time a sample; then communication stays what it is."""
    here = one_step(samples=samples, compute_s=0.2 * samples / 512, communication_s=0.1)
    base = one_step(samples=512, compute_s=0.3)
    loss = compare(here, base)
    shares = {cause.key: cause.points for cause in loss.causes}
    assert shares["communication"] == pytest.approx(communication)


# ---- A small batch --------------------------------------------------------------------------

STRONG = {"scaling": "strong", "global_batch_size": 512}


def test_strong_scaling_splits_the_batch_from_the_rest(tmp_path):
    """128 samples a GPU instead of 512. Forward and backward fall from 0.27 to 0.10 s, not 0.0675;
    optimizer and all-reduce do not fall at all.
    """
    write_known_run(tmp_path, 1, 1, "10", [BASE], **STRONG)
    here = rank(data=0.0075, own=0.10, comm=0.02)
    write_known_run(tmp_path, 1, 4, "11", [here] * 4, batch=128, **STRONG)
    _, finding = find(tmp_path)
    lost = 100 * (1 - 0.08 / 0.1475)  # 0.32 s for 512 samples, 0.1475 s for 128
    assert finding.loss.lost_points == pytest.approx(lost, abs=0.05)
    # With 512 samples a GPU a step would be 0.32 s + 0.02 s of all-reduce.
    assert points(finding)["communication"] == pytest.approx(100 * 0.02 / 0.34, abs=0.05)
    assert points(finding)["batch"] == pytest.approx(lost - 100 * 0.02 / 0.34, abs=0.05)
    assert names(finding) == ["batch", "communication"]
    text = write_finding(finding)
    assert "128 samples a GPU and step at 4 GPUs, 512 at 1 GPU" in text
    assert "forward and backward take 781 µs for one of them, 527 µs there" in text
    assert "with the baseline's batch 5.9 points would be lost" in text


def test_a_slow_link_is_not_blamed_on_the_batch(tmp_path):
    """The all-reduce would cost as much as a whole step even with the baseline's batch."""
    write_known_run(tmp_path, 1, 1, "10", [BASE], **STRONG)
    here = rank(data=0.0075, own=0.0675, comm=0.32)
    write_known_run(tmp_path, 4, 1, "11", [here] * 4, batch=128, **STRONG)
    _, finding = find(tmp_path)
    assert names(finding) == ["communication", "batch"]
    assert points(finding)["communication"] == pytest.approx(50.0, abs=0.1)


def test_more_passes_of_the_same_batch_are_no_smaller_batch_to_compute(tmp_path):
    """One GPU accumulates 4 passes of 128, four GPUs do one each: only per-step costs differ."""
    more = {"scaling": "strong", "global_batch_size": 512, "batch_size_per_gpu": 128}
    base = rank(data=0.04, own=0.4, optimizer=0.02)
    write_known_run(tmp_path, 1, 1, "10", [base], batch=128, passes=4, **more)
    here = rank(data=0.01, own=0.1, optimizer=0.02)
    write_known_run(tmp_path, 1, 4, "11", [here] * 4, batch=128, **more)
    _, finding = find(tmp_path)
    lost = 100 * (1 - 0.46 / (4 * 0.13))
    assert points(finding)["batch"] == pytest.approx(lost, abs=0.05)
    assert points(finding)["unexplained"] == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("passes", [1, 4])
def test_accumulated_passes_communicate_once(tmp_path, passes):
    write_known_run(tmp_path, 1, 1, "10", [BASE], batch=128, passes=passes)
    write_known_run(tmp_path, 1, 2, "11", [rank(comm=0.18)] * 2, batch=128, passes=passes)
    write_known_run(tmp_path, 1, 4, "12", [FAST, SLOW, FAST, FAST], batch=128, passes=passes)
    _, finding, uneven = find(tmp_path)
    assert points(finding)["communication"] == pytest.approx(36.0, abs=0.05)
    assert points(finding)["imbalance"] == pytest.approx(0.0, abs=0.05)
    assert points(uneven)["imbalance"] == pytest.approx(36.0, abs=0.05)
    assert "takes 450.0 ms, a typical rank 270.0 ms" in write_finding(uneven)


# ---- What is named, and what is not -----------------------------------------------------------


@pytest.mark.parametrize(
    ("data_s", "named"),
    # 0.32 s grow to 0.32 / (1 - lost): the threshold is 5 points.
    [(0.03 + 0.32 / 0.951 - 0.32, []), (0.03 + 0.32 / 0.949 - 0.32, ["data"])],
)
def test_under_five_points_nothing_is_named(tmp_path, data_s, named):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 2, "11", [rank(data=data_s)] * 2)
    assert names(find(tmp_path)[1]) == named


def test_what_may_be_chance_is_not_named(tmp_path):
    """Two of four epochs waited for 0.2 s more: 16.5 points, and as much by chance."""
    write_known_run(tmp_path, 1, 1, "10", [BASE], epochs=5)
    write_known_run(tmp_path, 1, 2, "11", [BASE] * 2, epochs=5, wobble=(0.3, 0.0, 0.0, 0.0))
    _, finding = find(tmp_path)
    (data, *_) = finding.loss.causes
    assert data.key == "data" and data.points > 15 and data.noise > data.points
    assert names(finding) == []
    assert "(within the noise)" in write_finding(finding)


def test_gains_are_no_causes_and_still_add_up(tmp_path):
    """The baseline waited for data, the larger scale does not: it is faster than ideal."""
    write_known_run(tmp_path, 1, 1, "10", [rank(data=0.18)])
    write_known_run(tmp_path, 1, 2, "11", [rank(data=0.0, comm=0.06)] * 2)
    _, finding = find(tmp_path)
    assert finding.loss.lost_points == pytest.approx(100 * (1 - 0.47 / 0.35), abs=0.1)
    assert names(finding) == []
    assert sum(points(finding).values()) == pytest.approx(finding.loss.lost_points)
    assert "nothing is lost" in finding.headline


def test_repeats_are_taken_together_and_a_job_by_itself(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 2, "11", [rank(data=0.11)] * 2)
    write_known_run(tmp_path, 1, 2, "12", [rank(data=0.03)] * 2)
    _, both = find(tmp_path)
    (one,) = find(tmp_path, jobs=("11",))
    assert points(one)["data"] == pytest.approx(20.0, abs=0.05)
    # 0.36 s a step on the mean; the tables' mean over throughputs loses 10.0.
    assert points(both)["data"] == pytest.approx(100 * 0.04 / 0.36, abs=0.05)
    assert both.loss.lost_points == pytest.approx(10.0, abs=0.05)
    assert sum(points(both).values()) == pytest.approx(both.loss.lost_points)


# ---- A run alone, and what is not there -------------------------------------------------------


def test_a_run_alone_says_what_its_own_step_shows(tmp_path):
    write_known_run(tmp_path, 1, 2, "11", [rank(data=0.12, comm=0.06, own=0.2, other=0.1)] * 2)
    (finding,) = find(tmp_path)
    assert finding.base is None and finding.efficiency_pct is None
    assert points(finding) == pytest.approx(
        {"data": 24.0, "between": 20.0, "communication": 12.0, "imbalance": 0.0,
         "unexplained": None}, abs=0.05,
    )  # fmt: skip
    text = write_finding(finding)
    assert "56.0 % of a step is neither computing nor optimizer" in finding.headline
    assert "120.0 ms of a 500.0 ms step at 2 GPUs: 24.0 % of the step" in text
    assert "no other scale to compare with: run the 1-GPU job" in text


def drop_ranks(folder: Path) -> None:
    for path in folder.glob("results/*/rank*.json"):
        path.unlink()


def drop_one_rank(folder: Path) -> None:
    for path in folder.glob("results/*/rank1_*.json"):
        path.unlink()


def drop_clocks(folder: Path) -> None:
    for path in folder.glob("results/*/rank*.json"):
        record = json.loads(path.read_text())
        put(path, json.dumps({k: v for k, v in record.items() if k != "compute_s"}))


def spoil_clocks(folder: Path) -> None:
    for path in folder.glob("results/*/rank*.json"):
        put(path, json.dumps({**json.loads(path.read_text()), "data_wait_s": -1.0, "steps": 0}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_ranks, "job 11: no rank<r>_results_epoch<e>.json"),
        (drop_one_rank, "job 11: the ranks' files hold no step breakdown"),
        (drop_clocks, "job 11: the ranks' files hold no step breakdown"),
        (spoil_clocks, "job 11: the ranks' files hold no step breakdown"),
    ],
)
def test_without_a_breakdown_it_says_how_to_get_one(tmp_path, spoil, words):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    spoil(write_known_run(tmp_path, 1, 2, "11", [rank(data=0.21)] * 2))
    _, finding = find(tmp_path)
    assert finding.loss is None and finding.efficiency_pct == pytest.approx(64.0, abs=0.05)
    assert any(gap.startswith(words) for gap in finding.gaps), finding.gaps
    assert "with this repository's trainers" in write_finding(finding)


def test_one_epoch_is_warm_up_and_says_so(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE], epochs=1)
    write_known_run(tmp_path, 1, 2, "11", [rank(data=0.21)] * 2, epochs=1)
    _, finding = find(tmp_path)
    assert points(finding)["data"] == pytest.approx(36.0, abs=0.05)
    assert "job 11: only warm-up epochs: train 2 epochs or more (--epochs 3)" in finding.gaps
    assert "job 10: only warm-up epochs: train 2 epochs or more (--epochs 3)" in finding.gaps


def test_unlike_runs_are_looked_at_alone_unless_asked(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 2, "11", [rank(data=0.21)] * 2, precision="bf16")
    _, finding = find(tmp_path)
    assert finding.base is None and names(finding) == ["data"]
    (gap,) = (gap for gap in finding.gaps if gap.startswith("not compared"))
    assert "precision bf16, baseline fp16" in gap
    _, finding = find(tmp_path, allow_unlike=True)
    assert finding.base is not None and points(finding)["data"] == pytest.approx(36.0, abs=0.05)


# ---- What the logs show -----------------------------------------------------------------------

HEADER = (
    "timestamp, index, name, memory.used [MiB], memory.total [MiB], utilization.gpu [%], "
    "power.draw [W], temperature.gpu, clocks.current.sm [MHz], clocks_throttle_reasons.active, uuid"
)


def smi(second: int, gpu: int, load: object, mhz: object, mask: object) -> str:
    return (
        f"2026/11/21 10:00:{second:02d}.000, {gpu}, Tesla V100, 26000, 32510, {load}, 250.00, 61, "
        f"{mhz}, {mask}, GPU-{gpu}"
    )


def write_gpu_log(folder: Path, rows: list[str], header: str = HEADER) -> None:
    (path,) = folder.glob("gpu_memory/*/gpu_memory_log.csv")
    put(path, "\n".join([header, *rows]) + "\n")


MASKS = {
    "0x0000000000000000": None,
    "0x0000000000000001": None,  # idle
    "0x0000000000000002": None,  # the clocks that somebody set
    "0x0000000000000010": None,  # sync boost
    "0x0000000000000004": "software power cap",
    "0x0000000000000008": "hardware slowdown",
    "0x0000000000000020": "software thermal slowdown",
    "0x0000000000000048": "hardware slowdown 10, hardware thermal slowdown 10",
    "0x0000000000000080": "hardware power brake",
    "[N/A]": None,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["clocks_throttle_reasons.active", "clocks_event_reasons.active"])
def test_throttling_is_named_by_its_bits(tmp_path, mask, name):
    folder = write_known_run(tmp_path, 1, 1, "10", [BASE])
    rows = [smi(n, 0, 0, 345, "0x0000000000000001") for n in range(5)]
    rows += [smi(n, 0, 97, 1530, "0x0000000000000000") for n in range(5, 25)]
    rows += [smi(n, 0, 97, 1005, mask) for n in range(25, 35)]
    write_gpu_log(folder, rows, HEADER.replace("clocks_throttle_reasons.active", name))
    (finding,) = find(tmp_path)
    seen = [text for text in finding.seen if text.startswith("Throttling")]
    if MASKS[mask] is None:
        assert seen == []
    else:
        (text,) = seen
        assert "GPU 0 of node0 was slowed down in 10 of 30 samples under load" in text
        assert f"({MASKS[mask]}" in text and "SM clock 1005 MHz then, 1530 MHz else" in text


def test_a_moment_of_throttling_is_none(tmp_path):
    folder = write_known_run(tmp_path, 1, 1, "10", [BASE])
    rows = [smi(n, 0, 97, 1530, "0x4" if n < 5 else "0x0") for n in range(60)]
    write_gpu_log(folder, rows)
    (finding,) = find(tmp_path)
    assert finding.seen == ()


def test_a_gpu_with_a_lower_clock_is_named(tmp_path):
    folder = write_known_run(tmp_path, 1, 4, "10", [BASE] * 4)
    clocks = (1530, 1530, 1200, 1530)
    rows = [smi(n, g, 97, mhz, "0x0") for n in range(10) for g, mhz in enumerate(clocks)]
    write_gpu_log(folder, rows)
    (finding,) = find(tmp_path)
    assert (
        "Clocks: GPU 2 of node0 runs at 1200 MHz under load, the median of 4 GPUs is 1530 MHz"
        in finding.seen
    )


def test_a_log_without_the_mask_says_what_to_add(tmp_path):
    folder = write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_gpu_log(
        folder,
        ["2026/11/21 10:00:01.000, 0, 26000, 97"],
        "timestamp, index, memory.used [MiB], utilization.gpu [%]",
    )
    (finding,) = find(tmp_path)
    assert any("add clocks_throttle_reasons.active to --query-gpu" in gap for gap in finding.gaps)


def test_idle_gpus_are_a_sign_of_a_small_batch(tmp_path):
    """20 % busy from the first to the last busy sample, and hardly any waiting."""
    folder = write_known_run(tmp_path, 1, 1, "10", [rank(data=0.01)])
    loads = [0, 0, 30, 10, 0, 40, 20, 0, 0]
    write_gpu_log(folder, [smi(n, 0, load, 1530, "0x0") for n, load in enumerate(loads)])
    (load,) = read_gpu_loads(find_runs(tmp_path)[0])
    assert load.mean_load_pct == pytest.approx(20.0)
    (finding,) = find(tmp_path)
    assert any(
        "signs of it (no proof): the GPUs are busy 20 % of the time" in t for t in finding.seen
    )


NCCL = {
    "sockets over InfiniBand's interface": (
        "node1:1:1 [0] NCCL INFO NET/Socket : Using [0]ib0:10.0.0.1<0>\n"
        "node1:1:1 [0] NCCL INFO Using network Socket\n"
        "0: node1:1:9 [0] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [send] via NET/Socket/0\n"
        "node1:1:9 [0] NCCL INFO Channel 01/0 : 1[1] -> 2[0] [send] via NET/Socket/1\n",
        "TCP sockets between the nodes over ib0 (2 channels): there is InfiniBand",
    ),
    "switched off": (
        "node1:1:1 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 1.\n"
        "node1:1:1 [0] NCCL INFO NET/Socket : Using [0]ens3:10.0.0.1<0>\n"
        "node1:1:1 [0] NCCL INFO Using network Socket\n",
        "NCCL_IB_DISABLE=1 is set",
    ),
    "no device": (
        "node1:1:1 [0] NCCL INFO NET/IB : No device found.\n"
        "node1:1:1 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>\n"
        "node1:1:1 [0] NCCL INFO Using network Socket\n",
        "it found no InfiniBand device",
    ),
    "InfiniBand": (
        "node1:1:1 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB ib0:10.0.0.1<0>\n"
        "node1:1:1 [0] NCCL INFO Using network IB\n"
        "node1:1:9 [0] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [send] via NET/IB/0/GDRDMA\n",
        None,
    ),
    "on one node": ("n:1:9 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM\n", None),
    "nothing": ("Epoch [1/3] and words on NET/Socket of somebody else\n", None),
}


@pytest.mark.parametrize("case", NCCL)
def test_sockets_between_nodes_are_named(tmp_path, case):
    text, words = NCCL[case]
    found = describe_transport(read_transport(put(tmp_path / "job.out", text)))
    assert (found is None) == (words is None)
    assert words is None or words in found


def test_several_nodes_without_nccl_info_ask_for_it(tmp_path):
    write_known_run(tmp_path, 2, 1, "11", [rank(comm=0.1)] * 2)
    (path,) = tmp_path.glob("multi_node/2_nodes/log/*.out")
    put(path, path.read_text().replace("NCCL INFO", "nothing"))
    (finding,) = find(tmp_path)
    assert any("export NCCL_DEBUG=INFO in the job file" in gap for gap in finding.gaps)


def test_gloo_on_cpus_is_asked_for_neither_gpu_log_nor_nccl(tmp_path):
    folder = write_known_run(
        tmp_path, 2, 1, "11", [rank(comm=0.1)] * 2, device="cpu", gpu_name=None
    )
    for path in folder.glob("gpu_memory/11/*"):
        path.unlink()
    (finding,) = find(tmp_path)
    assert [gap for gap in finding.gaps if "NCCL" in gap or "GPU log" in gap] == []


def test_frequent_samples_are_named_as_monitoring(tmp_path):
    folder = write_known_run(tmp_path, 1, 1, "10", [BASE])
    (path,) = folder.glob("cpu_memory/10/*.txt")
    rows = [f"{n / 10:12.3f} {90.0:12.3f} {500.0:12.3f} {900.0:12.3f}" for n in range(50)]
    put(path, "\n".join(["# Elapsed time   CPU (%)     Real (MB)   Virtual (MB)", *rows]) + "\n")
    (finding,) = find(tmp_path)
    assert any("psrecord sampled node0 every 0.1 s" in text for text in finding.seen)


@pytest.mark.parametrize(
    ("cpu_pct", "words"),
    [(390.0, "3.9 of its 4 CPUs: more loaders will not help"), (120.0, "1.2 of its 4 CPUs: more")],
)
def test_a_slow_loader_is_told_by_the_cpus_it_has(tmp_path, cpu_pct, words):
    slurm = {"job_id": "11", "job_name": "ddp_2g1n", "cpus_per_task": "4"}
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    folder = write_known_run(tmp_path, 1, 2, "11", [rank(data=0.21)] * 2, slurm=slurm)
    (path,) = folder.glob("cpu_memory/11/*.txt")
    rows = [f"{n * 5:12.3f} {cpu_pct:12.3f} {500.0:12.3f} {900.0:12.3f}" for n in range(20)]
    put(path, "\n".join(["# Elapsed time   CPU (%)     Real (MB)   Virtual (MB)", *rows]) + "\n")
    assert words in write_finding(find(tmp_path)[1])


@pytest.mark.parametrize(
    ("kind", "words"),
    [("jpeg", "To do: decode the images once (--input cache)."),
     ("cache", "To do: keep the decoded cache on a local disk"),
     (None, "To do: more --num-workers and --cpus-per-task")],
)  # fmt: skip
def test_advice_on_data_knows_how_they_were_read(tmp_path, kind, words):
    settings = {"input": kind}  # None: another workload, or an older record
    write_known_run(tmp_path, 1, 1, "10", [BASE], **settings)
    write_known_run(tmp_path, 1, 2, "11", [rank(data=0.21)] * 2, **settings)
    assert words in write_finding(find(tmp_path)[1])


@pytest.mark.parametrize(
    ("late_s", "words"), [(0.62, "half of rank 0's take up to 300.0 ms, one in 20 takes 620.0 ms"),
                          (0.44, None)],
)  # fmt: skip
def test_uneven_steps_are_shown(tmp_path, late_s, words):
    """The first epoch is warm-up and does not count."""
    folder = write_known_run(tmp_path, 1, 1, "10", [BASE])
    epochs = [
        {"epoch_idx": n, "samples_per_sec_global": 1600.0, "epoch_wall_time_sec": 5.0,
         "step_time_p50_sec": 0.3, "step_time_p95_sec": late_s if n > 1 else 9.0}
        for n in (1, 2, 3)
    ]  # fmt: skip
    metrics = {"schema_version": "2.0", "hardware": {"world_size": 1}, "epochs": epochs}
    put(folder / "results/10/training_metrics.json", json.dumps(metrics))
    (finding,) = find(tmp_path)
    found = [text for text in finding.seen if text.startswith("Uneven steps")]
    assert (not found) == (words is None)
    assert words is None or words in found[0]


def test_the_profiler_is_named_where_the_time_goes_between_the_steps(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    argv = ["train.py", "--profile", "20", "--checkpoint-every=0"]
    write_known_run(tmp_path, 1, 2, "11", [rank(other=0.18)] * 2, argv=argv)
    text = write_finding(find(tmp_path)[1])
    assert "1. Monitoring and bookkeeping" in text
    assert "this run was told to: the profiler (--profile)" in text


# ---- The command ------------------------------------------------------------------------------


def run_command(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def study(tmp_path) -> Path:
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 4, "11", [rank(data=0.13, comm=0.08)] * 4)
    return tmp_path


def test_text_names_the_first_cause_first(study):
    done = run_command(study)
    assert (done.returncode, done.stderr) == (0, "")
    line = "4 GPUs (1 node) against Single GPU: 64.0 % efficient, 36.0 points lost: data wait 20.0"
    assert f"{line}, exposed communication 16.0\n" in done.stdout
    assert (
        "  1. Data wait: 130.0 ms of a 500.0 ms step at 4 GPUs, 30.0 ms of 320.0 ms at 1 GPU: "
        "20.0 of the 36.0 points lost.\n" in done.stdout
    )
    assert "at about 1,900 samples a GPU and step this one would be 5 % of it" in done.stdout
    assert done.stdout.endswith("points are lost in all.\n")


def test_json_has_the_numbers_unrounded(study):
    done = run_command(study, "--json", "--job", "11")
    (table,) = json.loads(done.stdout)["tables"]
    rows = {row["cause"]: row for row in table["rows"]}
    assert rows["Data wait"]["points"] == pytest.approx(20.0)
    assert rows["Data wait"]["here_s"] == pytest.approx(0.13)
    assert rows["Data wait"]["base_s"] == pytest.approx(0.03)
    assert [rows[c]["place"] for c in rows][:3] == [1, 2, None]
    assert rows["Lost in all"]["base_s"] == pytest.approx(0.32)
    total = sum(row["points"] for cause, row in rows.items() if cause != "Lost in all")
    assert total == pytest.approx(rows["Lost in all"]["points"])


@pytest.mark.parametrize("form", ["md", "csv", "html"])
def test_every_format_has_every_cause(study, form):
    text = make_text([study], "tinyimagenet", form=form)
    for label in ("Data wait", "Exposed communication", "Imbalance", "Small per-GPU batch",
                  "Monitoring", "Not explained", "Lost in all"):  # fmt: skip
        assert label in text


def test_a_grid_without_a_breakdown_has_no_rows_and_a_reason(study):
    drop_ranks(study / "multi_gpu/4_gpus")
    _, finding = find(study)
    grid = make_grid(finding)
    assert grid.rows == [] and any("Not known: job 11: no rank" in text for text in grid.remarks)


def test_workdirs_of_runs_outside_slurm(study, tmp_path_factory):
    """--workdir holds the results files flat, and no log."""
    flat = tmp_path_factory.mktemp("flat")
    for name, results in (("one", "baseline/results/10"), ("four", "multi_gpu/4_gpus/results/11")):
        (flat / name).mkdir()
        for path in (study / results).iterdir():
            put(flat / name / path.name, path.read_text())
    done = run_command(flat / "one", flat / "four")
    assert done.returncode == 0, done.stderr
    assert "64.0 % efficient, 36.0 points lost: data wait 20.0" in done.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "no such folder"),
        (["--job", "99"], "--job 99: not all are complete runs; there are: 10, 11"),
        (["--workload", "gpt2"], "no complete run of workload gpt2"),
    ],
)
def test_wrong_asks_are_one_line(study, args, words):
    done = run_command(*(args if args == ["nowhere"] else [study, *args]))
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_hostile_names_stay_text(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    hosts = ["<script>alert(1)</script>\x1b[31m\n|x|"]
    write_known_run(tmp_path, 1, 4, "11", [FAST, SLOW, FAST, FAST], hosts=hosts)
    for form in ("text", "md", "html"):
        text = make_text([tmp_path], "tinyimagenet", form=form)
        assert "\x1b" not in text
        assert form == "text" or "<script>" not in text
        assert "alert(1)" in text


@pytest.mark.parametrize("value", [None, "x", True, 1e308, -1e308, float("nan"), [], {}, 0])
@pytest.mark.parametrize("name", ["steps", "samples", "training_time", "data_wait_s", "compute_s",
                                  "exposed_comm_s", "probe", "optimizer_s", "other_s"])  # fmt: skip
def test_odd_records_of_others_end_in_words_not_in_a_crash(tmp_path, name, value):
    write_known_run(tmp_path, 1, 1, "10", [BASE], epochs=2)
    folder = write_known_run(tmp_path, 1, 2, "11", [rank(data=0.21)] * 2, epochs=2)
    for path in folder.glob("results/11/rank1_*.json"):
        put(path, json.dumps({**json.loads(path.read_text()), name: value}))
    try:
        text = make_text([tmp_path], "tinyimagenet")
    except UserError:
        return
    assert "2 GPUs (1 node)" in text and "nan" not in text
