"""What a run's logs show of lost efficiency: throttling, idle GPUs, sockets, busy CPUs."""

import json
from pathlib import Path

import pytest

from diagnosis_runs import BASE, find, rank, write_known_run
from run_folders import put
from scaling.diagnose.evidence import find_load
from scaling.runs import find_runs, make_samples

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
    "0x0000000000000048": "hardware slowdown, hardware thermal slowdown)",
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
        assert f"({MASKS[mask]}" in text and "SM clock 1005 MHz then, 1530 MHz otherwise" in text


def test_a_moment_of_throttling_is_none(tmp_path):
    folder = write_known_run(tmp_path, 1, 1, "10", [BASE])
    rows = [smi(n, 0, 97, 1530, "0x4" if n < 5 else "0x0") for n in range(60)]
    write_gpu_log(folder, rows)
    (finding,) = find(tmp_path)
    assert finding.seen == ()


def test_the_most_throttled_gpu_stands_for_the_others(tmp_path):
    folder = write_known_run(tmp_path, 1, 4, "10", [BASE] * 4)
    slowed = (0, 4, 9, 0)  # of ten samples
    rows = [smi(n, g, 97, 1530, "0x8" if n < slowed[g] else "0x0")
            for n in range(10) for g in range(4)]  # fmt: skip
    write_gpu_log(folder, rows)
    (finding,) = find(tmp_path)
    (text,) = finding.seen
    assert "GPU 2 of node0 was slowed down in 9 of 10 samples under load" in text
    assert text.endswith("; 2 of 4 GPUs were")


def test_a_log_that_cannot_be_read_is_a_gap_that_names_it(tmp_path):
    folder = write_known_run(tmp_path, 1, 1, "10", [BASE])
    write_gpu_log(folder, ["nothing that nvidia-smi writes"], header="neither is this")
    (finding,) = find(tmp_path)
    (gap,) = (gap for gap in finding.gaps if "gpu_memory_log" in gap)
    assert gap.startswith("job 10: ")


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
    samples = find_load(make_samples(find_runs(tmp_path)[0]))
    assert samples["load_pct"].mean() == pytest.approx(20.0)
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
    write_known_run(tmp_path, 2, 1, "11", [rank(comm=0.1)] * 2, log=text)
    (finding,) = find(tmp_path)
    seen = [text for text in finding.seen if text.startswith("Socket transport")]
    assert len(seen) == (words is not None)
    assert words is None or words in seen[0]


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
    assert words in find(tmp_path)[1].text()


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
    assert words in find(tmp_path)[1].text()


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
    text = find(tmp_path)[1].text()
    assert "1. Monitoring and bookkeeping" in text
    assert "this run uses the profiler (--profile)" in text


def test_profiled_communication_is_shown_with_what_overlaps(tmp_path):
    folder = write_known_run(tmp_path, 1, 2, "11", [rank(comm=0.1)] * 2)
    profiled = {"profiled_comm_per_step_s": 0.08, "profiled_exposed_per_step_s": 0.02}
    for path in folder.glob("results/11/rank*_epoch0.json"):
        put(path, json.dumps({**json.loads(path.read_text()), **profiled}))
    (finding,) = find(tmp_path)
    words = "80.0 ms per step in all, 20.0 ms of it exposed; 75 % overlaps with compute"
    assert f"Profiled communication: {words}" in finding.seen
