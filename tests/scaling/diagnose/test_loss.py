"""Why efficiency is lost: hand-made records with known answers."""

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnosis_runs import (
    BASE,
    FAST,
    SLOW,
    drop_ranks,
    find,
    make_record,
    names,
    points,
    rank,
    write_known_run,
)
from run_folders import put, write_run
from scaling.diagnose import Finding
from scaling.diagnose.loss import PARTS, break_down, share_out

write_known_run = partial(write_known_run, monitors=False)  # reading logs takes most of the time


# ---- The arithmetic -------------------------------------------------------------------------

# Four ranks' steps, and the points that each cause must get. A step of 0.50 s against 0.32 s is
# 64 % efficient, 0.40 s is 80 %.
CASES = {
    "data": ([rank(data=0.21)] * 4, {"data": 36.0}),
    "copying counts as data": ([rank(copy=0.18)] * 4, {"data": 36.0}),
    "communication": ([rank(comm=0.18)] * 4, {"communication": 36.0}),
    "between the steps": ([rank(other=0.18)] * 4, {"host_overhead": 36.0}),
    "one rank computes slowly": ([FAST, SLOW, FAST, FAST], {"imbalance": 36.0}),
    "a node of two computes slowly": ([FAST, FAST, SLOW, SLOW], {"imbalance": 36.0}),
    "all compute more slowly": ([rank(own=0.45)] * 4, {"unexplained": 36.0}),
    "the optimizer takes longer": ([rank(optimizer=0.2)] * 4, {"unexplained": 36.0}),
    "two causes": ([rank(data=0.13, comm=0.08)] * 4, {"data": 20.0, "communication": 16.0}),
    "all at once": (
        # Rank 3 computes for 0.04 s longer than the others, who wait for it.
        [rank(data=0.07, own=0.29, comm=0.03, waits=0.04, other=0.05)] * 3
        + [rank(data=0.07, own=0.33, comm=0.03, other=0.05)],
        {
            "data": 8.0,
            "communication": 6.0,
            "imbalance": 8.0,
            "host_overhead": 10.0,
            "unexplained": 4.0,
        },
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
    ranked = [factor.points for factor in finding.named]
    assert ranked == pytest.approx(sorted(ranked, reverse=True))


def test_the_rank_that_waits_least_is_the_slow_one_not_the_network(tmp_path):
    """exposed_comm_s is 0.18 s per step on three ranks of four: none of it is communication."""
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 2, 2, "11", [FAST, FAST, FAST, SLOW])
    _, finding = find(tmp_path)
    assert names(finding) == ["imbalance"]
    text = finding.text()
    assert "rank 3 (node2) is the slowest in 2 of 2 epochs: it spends 450.0 ms per step" in text
    assert "on forward and backward, a typical rank 270.0 ms" in text


@pytest.mark.parametrize("probe", [True, False])
def test_one_slow_loader_is_an_imbalance_with_and_without_the_probe(tmp_path, probe):
    """The others wait for its data in the all-reduce, where the probe cannot see it."""
    ranks = [rank(waits=0.18), rank(data=0.21), rank(waits=0.18), rank(waits=0.18)]
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 4, "11", ranks, probe=probe, probe_waits=0.0)
    _, finding = find(tmp_path)
    assert names(finding) == ["imbalance"]
    assert points(finding)["imbalance"] == pytest.approx(36.0, abs=0.05)
    assert (
        "rank 1 (node1) is the slowest in 2 of 2 epochs: it spends 210.0 ms per step waiting for "
        "data, a typical rank 30.0 ms" in finding.text()
    )


def test_without_the_probe_communication_is_not_guessed(tmp_path):
    write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_known_run(tmp_path, 1, 2, "11", [rank(comm=0.18)] * 2, probe=False)
    _, finding = find(tmp_path)
    assert points(finding)["communication"] is None and names(finding) == []
    assert points(finding)["unexplained"] == pytest.approx(36.0, abs=0.05)
    text = finding.text()
    assert "exposed communication (not measured)" in text
    assert "communication included" in text
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
    assert "50.0 ms of 320.0 ms at 2 GPUs" in finding.text()


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
    assert "75.0 % efficient; no step breakdown is recorded" in finding.headline
    assert any("job 11: no rank<r>_results_epoch<e>.json" in gap for gap in finding.gaps)


TIMES = st.floats(0, 1e3)
RANKS = st.lists(
    st.fixed_dictionaries(
        dict.fromkeys(("data", "own", "comm", "waits", "optimizer", "other", "copy"), TIMES)
    ),
    min_size=1, max_size=5,
)  # fmt: skip


def make_steps(runs: list[list[dict]], batch: int, passes: int, probe: bool) -> list[pd.DataFrame]:
    """The steps of runs of one epoch; run 0 has the probe and a batch of 512 in one pass."""
    shapes = [(512, 1, True)] + [(batch, passes, probe)] * (len(runs) - 1)
    rows = []
    for run, (ranks, shape) in enumerate(zip(runs, shapes, strict=True)):
        for number, parts in enumerate(ranks):
            record = make_record(number, 1, parts, 0.001, *shape, parts["waits"])
            pass_s = (record["probe"] or {}).get("no_sync_pass_s")
            known = {"run": run, "host": None, "passes": shape[1], "no_sync_pass_s": pass_s}
            rows.append({**record, "training_s": record["training_time"], **known})
    clocks = {"exposed_comm_s": float, "no_sync_pass_s": float}
    steps = break_down(pd.DataFrame(rows).astype(clocks))
    return [steps[steps["run"] == run] for run in range(len(runs))]


@settings(deadline=None, max_examples=30)  # of 1 to 4 comparisons each; the machine is shared
@given(st.lists(RANKS, min_size=2, max_size=5), st.sampled_from([(512, 1), (64, 1), (64, 8)]),
       st.booleans())  # fmt: skip
def test_whatever_the_ranks_clocks_say_the_parts_add_up(runs, shape, probe):
    base, *others = make_steps(runs, *shape, probe)
    for steps in (base, *others):
        assert steps[PARTS].sum(axis=1).to_list() == pytest.approx(steps["step_s"].to_list())
        assert (steps[PARTS].min(axis=1) >= -1e-9 * steps["step_s"]).all()
    for steps, ranks in zip(others, runs[1:], strict=True):
        loss = share_out(steps, base)
        shares = [factor.points or 0.0 for factor in (*loss.factors, loss.unexplained)]
        scale = max(map(abs, shares))
        assert sum(shares) == pytest.approx(loss.lost_points, abs=1e-6 * max(scale, 1))
        efficiency_pct = 100 - loss.lost_points
        against = Finding("here", len(ranks), loss, "base", len(runs[0]), efficiency_pct)
        for finding in (against, Finding("here", len(ranks), share_out(steps))):
            texts = [finding.explain(f) + finding.advise(f) for f in finding.loss.factors]
            words = " ".join([*texts, finding.rest, finding.headline])
            assert not {"nan", "inf"} & set(words.split())


def one_step(samples: int, **seconds: float) -> pd.DataFrame:
    """A run of one epoch, with these parts and no others."""
    parts = dict.fromkeys(PARTS, 0.0) | seconds
    step = {**parts, "step_s": sum(parts.values()), "samples": samples}
    return pd.DataFrame([{**step, "passes": 1, "is_probed": True}])


def test_a_baseline_that_computes_nothing_is_divided_by_all_the_same():
    loss = share_out(one_step(samples=64, compute_s=0.1), one_step(samples=512, data_s=0.4))
    assert loss.lost_points == pytest.approx(50.0)
    shares = {factor.key: factor.points for factor in loss.factors}
    assert shares["data"] == pytest.approx(-50.0) and shares["batch"] == 0


@pytest.mark.parametrize(("samples", "communication"), [(512, 0.0), (1024, 20.0)])
def test_only_the_same_batch_bounds_the_probe(samples, communication):
    """A larger batch may well take less time a sample; then communication stays what it is."""
    here = one_step(samples=samples, compute_s=0.2 * samples / 512, communication_s=0.1)
    base = one_step(samples=512, compute_s=0.3)
    loss = share_out(here, base)
    shares = {factor.key: factor.points for factor in loss.factors}
    assert shares["communication"] == pytest.approx(communication)


# ---- A small batch --------------------------------------------------------------------------

STRONG = {"scaling": "strong", "global_batch_size": 512}


def test_strong_scaling_splits_the_batch_from_the_rest(tmp_path):
    """128 samples per GPU, not 512. Forward and backward fall from 0.27 to 0.10 s, not 0.0675;
    optimizer and all-reduce do not fall at all.
    """
    write_known_run(tmp_path, 1, 1, "10", [BASE], **STRONG)
    here = rank(data=0.0075, own=0.10, comm=0.02)
    write_known_run(tmp_path, 1, 4, "11", [here] * 4, batch=128, **STRONG)
    _, finding = find(tmp_path)
    lost = 100 * (1 - 0.08 / 0.1475)  # 0.32 s for 512 samples, 0.1475 s for 128
    assert finding.loss.lost_points == pytest.approx(lost, abs=0.05)
    # With 512 samples per GPU a step would be 0.32 s + 0.02 s of all-reduce.
    assert points(finding)["communication"] == pytest.approx(100 * 0.02 / 0.34, abs=0.05)
    assert points(finding)["batch"] == pytest.approx(lost - 100 * 0.02 / 0.34, abs=0.05)
    assert names(finding) == ["batch", "communication"]
    text = finding.text()
    assert "128 samples per GPU and step at 4 GPUs, 512 at 1 GPU" in text
    assert "forward and backward take 0.781 ms per sample, 0.527 ms there" in text
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
    assert "spends 450.0 ms per step on forward and backward, a typical rank 270.0 ms" in (
        uneven.text()
    )


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
    (data, *_) = finding.loss.factors
    assert data.key == "data" and data.points > 15 and data.noise > data.points
    assert names(finding) == []
    assert "(within the noise)" in finding.text()


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
    # 0.36 s per step on the mean; the tables' mean over throughputs loses 10.0.
    assert points(both)["data"] == pytest.approx(100 * 0.04 / 0.36, abs=0.05)
    assert both.loss.lost_points == pytest.approx(10.0, abs=0.05)
    assert sum(points(both).values()) == pytest.approx(both.loss.lost_points)


# ---- A run alone, and what is not there -------------------------------------------------------


def test_a_run_alone_says_what_its_own_step_shows(tmp_path):
    write_known_run(tmp_path, 1, 2, "11", [rank(data=0.12, comm=0.06, own=0.2, other=0.1)] * 2)
    (finding,) = find(tmp_path)
    assert finding.base is None and finding.efficiency_pct is None
    assert points(finding) == pytest.approx(
        {"data": 24.0, "host_overhead": 20.0, "communication": 12.0, "imbalance": 0.0,
         "batch": 0.0, "unexplained": 0.0}, abs=0.05,
    )  # fmt: skip
    text = finding.text()
    assert "by itself, 56.0 points lost: data wait 24.0" in finding.headline
    assert "120.0 ms of a 500.0 ms step at 2 GPUs: 24.0 of the 56.0 points lost" in text
    assert "no other scale to compare with: run the 1-GPU job" in text


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
    assert "with this repository's trainers" in finding.text()


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


def test_a_strong_series_without_its_own_one_gpu_run_is_named_with_the_reason(tmp_path):
    strong = {"scaling": "strong", "global_batch_size": 512}
    write_known_run(tmp_path / "weak", 1, 1, "10", [BASE])
    write_known_run(tmp_path / "weak", 1, 2, "11", [rank(data=0.21)] * 2)
    write_known_run(tmp_path / "strong", 1, 2, "12", [BASE] * 2, batch=256, **strong)
    _, finding = find(tmp_path)
    assert "job 12: not in the means: scaling strong, baseline weak" in finding.gaps[0]
