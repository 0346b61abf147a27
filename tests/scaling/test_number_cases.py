"""Small inputs of tests/cases through the commands that a user types: right, or refused."""

import json
from pathlib import Path

import pytest

from filled_tables import call, parse_markdown
from run_folders import epoch_line, gpu_csv, put

CASES = Path(__file__).resolve().parents[1] / "cases"

# File -> (GPUs, speedup, efficiency) of each row, and words that stand in what is printed.
TABLES = {
    "one_gpu_words": ("1 1.00 1.00, 4 3.60 0.90", ""),
    "c2_pergpu": ("1 1.00 1.00, 2 1.96 0.98, 4 3.80 0.95", "196.00"),
    "per_gpu_no_single": ("8 1.00 1.00, 128 14.72 0.92", "678400.00"),
    "c1_na": ("1 1.00 1.00, 2 — —, 4 3.80 0.95", "says 'N/A'"),
    "c12_error": ("1 1.00 1.00, 2 — —, 4 3.80 0.95", "says 'ERROR'"),
    "baseline_oom": ("1 — —, 2 1.00 1.00, 4 1.89 0.95", "says 'OOM'"),
    "c4_unit": ("1 1.00 1.00, 2 1.73 0.86", "Throughput (ns/day)"),
    "c5_pct": ("1 1.00 1.00, 4 3.93 0.98", "of 2 printed speedups and efficiencies 0 are not"),
    "c6_dash": ("1 1.00 1.00, 4 3.93 0.98", "of 1 printed speedups and efficiencies 0 are not"),
    "nodes_times_per_node": ("4 1.00 1.00, 8 1.90 0.95, 16 3.50 0.88", "Speedup vs 4 GPUs"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    rows, words = TABLES[name]
    done = call("scaling_tables", "--from-csv", CASES / f"csv/{name}.csv")
    assert (done.returncode, done.stderr) == (0, "")
    headers, *cells = parse_markdown(done.stdout)
    places = [0, len(headers) - 2, len(headers) - 1]
    plain = [[row[at].split(" [")[0] for at in places] for row in cells]
    assert ", ".join(" ".join(row) for row in plain) == rows
    assert words in done.stdout


def test_two_models_are_two_series():
    done = call("scaling_tables", "--from-csv", CASES / "csv/models_as_numbers.csv")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert '--where "Model=7b"' in done.stderr


# File -> the lines of analyze_memory.py, and words of inspect_log.py.
GPU_LOGS = {
    "g2_unknown_header": ("GPU 0] Peak = 1070 MiB", "utilization.gpu: n 80, mean"),
    "g4_mdy": ("GPU 0] Peak = 26136 MiB", "4 kept"),
    "g6_own_names": ("GPU 0] Peak = 473 MiB", "4 kept"),
    "g9_pooled": ("GPU 0] Peak = 25000 MiB|GPU 1] Peak = 15 MiB",
                  "GPU 0: mean utilization.gpu 91 %|GPU 1: mean utilization.gpu 0 %"),
    "g10_nul": ("GPU 0] Peak = 20 MiB", "2 kept; dropped: 1 NUL bytes"),
    "g11_custom_dates": ("GPU 0] Peak = 200 MiB", "2 kept"),
    "gpu_is_a_name": ("GPU 0] Peak = 20100.5 MiB", "2 kept"),
    "two_hosts": ("node0 GPU 0] Peak = 20000 MiB|node1 GPU 0] Peak = 30000 MiB",
                  "GPUs: node0 GPU 0, node1 GPU 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", GPU_LOGS)
def test_gpu_logs(name):
    memory, words = GPU_LOGS[name]
    path = CASES / f"gpu/{name}.csv"
    done, seen = call("analyze_memory", path), call("inspect_log", path)
    assert (done.returncode, seen.returncode) == (0, 0)
    lines = done.stdout.splitlines()
    assert [line.split(" - ")[1].split(",")[0] for line in lines] == memory.split("|")
    assert all(text in seen.stdout for text in words.split("|"))
    assert "45.5" not in seen.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [("g5_util_only", "utilization.gpu: n 4, mean 81.5 %"),
     ("g7_gpu_id", "GPU 0: mean utilization.gpu 10 %\n  GPU 1: mean utilization.gpu 20 %")],
)  # fmt: skip
def test_a_gpu_log_without_memory(name, words):
    done = call("inspect_log", CASES / f"gpu/{name}.csv")
    assert done.returncode == 0 and words in done.stdout and "memory" not in done.stdout


@pytest.mark.parametrize(
    "name", ["g1_used_free", "g12_noheader3", "headerless_load_first", "g3_index0"]
)
def test_a_gpu_log_that_leaves_it_open_is_refused(name):
    for command in ("analyze_memory", "inspect_log"):
        done = call(command, CASES / f"gpu/{name}.csv")
        assert done.returncode == 1 and "Peak" not in done.stdout and "mean" not in done.stdout
        assert done.stderr.count("\n") == 1 and f"{name}.csv: " in done.stderr
    assert "nvidia-smi --query-gpu=" in call("analyze_memory", CASES / f"gpu/{name}.csv").stderr


METRICS = CASES / "metrics"


@pytest.mark.parametrize("basis", ["throughput", "walltime"])
def test_the_throughput_of_schema_1_is_per_gpu(basis):
    files = ["--gpu1", METRICS / "v1_1.json", "--gpu4", METRICS / "v1_4.json"]
    done = call("generate_scaling_table", *files, "--basis", basis)
    rows = parse_markdown(done.stdout)
    assert [row[3] for row in rows[1:]] == ["1.00", "3.64"]
    assert rows[2][1].startswith("43636.40") and "schema 1 has it: multiplied by 4" in done.stdout


@pytest.mark.parametrize("order", [("m_300", "m_80prof"), ("m_80prof", "m_300")])
def test_runs_of_different_work_are_no_repeats(order):
    files = [word for name in order for word in ("--gpu8", METRICS / f"{name}.json")]
    done = call("generate_scaling_table", *files)
    assert parse_markdown(done.stdout)[1][1].startswith("35294.12")
    assert "m_80prof.json: not in the means: profiler on, baseline off" in done.stdout
    assert "validation off, baseline on; 640000 tokens per epoch, baseline 2400000" in done.stdout
    assert "val_loss_avg_global: n 1" not in call("inspect_log", METRICS / "m_80prof.json").stdout


def test_logs_alone_fill_the_tables(tmp_path):
    """What the original workshop's jobs leave, and nothing else."""
    for gpus, run, throughput in ((1, 11, 704.9), (4, 14, 2750.0)):
        lines = [epoch_line(n, throughput=throughput) for n in (1, 2, 3)]
        put(tmp_path / f"log/ddp_{gpus}g1n_{run}.out", "\n".join(lines) + "\n")
        used = {gpu: [22000, 26532, 26532] for gpu in range(gpus)}
        put(tmp_path / f"gpu_memory/{run}/gpu_memory_log.csv", gpu_csv(used))
    done = call("fill_tables", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    four = next(row for row in parse_markdown(done.stdout) if row[0].startswith("4 GPUs"))
    assert [cell.split(" [")[0] for cell in four[1:9]] == [
        "5.149",
        "2.16%",
        "2750.0",
        "26532",
        "25021.33",
        "26532",
        "3.90×",
        "1.00×",
    ]
    assert "all epochs are done, and no end was recorded" in done.stdout


@pytest.mark.parametrize("path", sorted(CASES.glob("*/*")), ids=lambda path: path.name)
def test_the_account_of_lines_holds(path):
    (found,) = json.loads(call("inspect_log", "--json", path).stdout)
    account = found["kept"] + sum((found["dropped"] | found["ignored"]).values())
    assert found["lines"] == account
