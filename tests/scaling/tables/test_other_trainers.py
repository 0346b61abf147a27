"""Runs of other trainers: their logs alone fill the same tables as our own runs."""

import json
import shutil
from pathlib import Path

import pytest

from filled_tables import call, parse_markdown
from run_folders import epoch_line
from scaling.read.foreign_log import LogChoice
from scaling.runs import choose_workload, find_runs, make_frames, make_study
from trainer_logs import SCALES, STUDY, UNITS, deepspeed, megatron, nanogpt, torchtitan

CASES = Path(__file__).parents[2] / "cases/slurm"


def write_study(folder: Path, write, name: str = "ddp_{gpus}g{nodes}n_{at}.out") -> Path:
    folder.mkdir(exist_ok=True)
    for at, (nodes, gpus) in enumerate(SCALES, start=11):
        path = folder / name.format(at=at, nodes=nodes, gpus=gpus)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write(nodes * gpus))
    return folder


def cells(done, column: str) -> list[str]:
    """What stands in a column of the filled rows of both tables."""
    rows = parse_markdown(done.stdout)
    found, header = [], []
    for row in rows:
        header = row if row[0] == "Config" else header
        if row is not header and column in header and row[header.index(column)][0] != "—":
            found.append(row[header.index(column)].partition(" [")[0])
    return found


@pytest.mark.parametrize("name", STUDY)
def test_a_study_of_four_scales_fills_the_tables(tmp_path, name):
    write, options, _ = STUDY[name]
    folder = write_study(tmp_path / "study", write)
    said = [f"--{key}={value}" for key, values in options.items() for value in values]
    done = call("fill_tables", folder, *said)
    unit = UNITS.get(name, "samples/s")
    # 1000 per GPU, less 5 % with each doubling; the 1 GPU stands in both tables.
    expected = ["1000.0", "1900.0", "3600.0", "1000.0", "6800.0"]
    if name == "lightning":  # it prints four digits
        assert [float(x) for x in cells(done, f"Throughput ({unit})")] == pytest.approx(
            list(map(float, expected))
        )
    else:
        assert cells(done, f"Throughput ({unit})") == expected
    assert cells(done, "Throughput Scaling vs 1G") == ["1.0×", "1.90×", "3.60×"]
    assert cells(done, "Throughput Scaling vs 1N") == ["1.0×", "6.80×"]
    assert cells(done, "Parallel Efficiency (%)") == ["100.0", "95.0", "90.0", "100.0", "85.0"]
    assert (f"(log format {name})" in done.stdout and "median" in done.stdout) or (
        name == "huggingface" and "a mean over the whole run" in done.stdout
    )
    table = call("scaling_tables", folder, "--fixed-work", "--format", "json", *said)
    (fixed,) = json.loads(table.stdout)["tables"]
    assert [row["speedup"] for row in fixed["rows"]] == pytest.approx([1, 1.9, 3.6, 6.8], rel=1e-6)


def test_a_strangers_format_is_one_file(tmp_path):
    toml = tmp_path / "mine.toml"
    toml.write_text(
        'name = "mine"\ntitle = "mine"\nunit = "graphs/s"\nper = "job"\n'
        "patterns = 'round (?P<step>{count}) at (?P<rate>{number}) graphs per second'\n"
    )
    text = "".join(f"round {n} at {100 * n} graphs per second\n" for n in (1, 2, 2, 2))
    folder = tmp_path / "study"
    for gpus in (1, 2):
        (folder / f"{gpus}_gpus").mkdir(parents=True)
        (folder / f"{gpus}_gpus/train.log").write_text(text.replace("00 g", f"{gpus}0 g"))
    done = call("fill_tables", folder, "--log-format", toml)
    assert cells(done, "Throughput (graphs/s)") == ["210.0", "220.0"]
    nothing = call("fill_tables", folder)
    assert cells(nothing, "Throughput (img/s)") == []


READ = [  # a case, options, its kind, and the mean of a column with its unit
    ("s7_srun_l", [], "trainer-log", "epoch_s", 4.1, "s"),
    ("s8_megatron", [], "trainer-log", "step_s", 2.1522, "s"),
    ("s8_megatron", [], "trainer-log", "throughput_per_s", 4 / 2.1522, "samples/s"),
    ("s9_hf", [], "trainer-log", "throughput_per_s", 3.663, "samples/s"),
    ("titan", [], "trainer-log", "printed_per_s", 1900, "tokens/s per GPU"),
    ("titan", ["--gpus=8"], "trainer-log", "throughput_per_s", 15200, "tokens/s"),
    ("s10_bw", [], "trainer-log", "printed_per_s", 90.0, "GB/s"),
    ("s15_ansi", [], "slurm-out", "throughput_per_s", 704.9, "img/s"),
]


@pytest.mark.parametrize(("name", "options", "kind", "column", "mean", "unit"), READ)
def test_inspect_log_says_what_a_log_is_and_holds(name, options, kind, column, mean, unit):
    done = call("inspect_log", CASES / f"{name}.out", "--json", *options)
    (found,) = json.loads(done.stdout)
    assert (done.returncode, found["kind"]) == (0, kind)
    assert found["columns"][column]["mean"] == pytest.approx(mean)
    assert found["columns"][column]["unit"] == unit
    notes = "; ".join(found.get("notes", ()))
    assert name != "titan" or options or "add --gpus titan.out=N" in notes
    if name == "s10_bw":
        assert found["world_size"] == 8 and "no throughput of a training" in notes
        assert "throughput_per_s" not in found["columns"]


FIRST = [  # what a job's log may begin with
    "| NVIDIA-SMI 550.54.15     Driver Version: 550.54.15 |\n",
    "index, name, memory.used [MiB]\n0, H100, 5 MiB\n",
    "{\n",
    "GPU 0: NVIDIA H100 (UUID: GPU-1)\n",
]


@pytest.mark.parametrize("first", FIRST)
def test_a_log_may_begin_with_what_a_gpu_tool_says(tmp_path, first):
    (tmp_path / "slurm-12.out").write_text(first + torchtitan(4))
    done = call("inspect_log", tmp_path / "slurm-12.out")
    assert done.returncode == 0, done.stderr
    assert "mean 3600.0, median 3600.0 tokens/s" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("srun: Job step aborted\n", "no epoch line, and no log format finds a throughput in it"),
        ("srun: x\nStep 1 took 3.5 s/it\n", 'line 2 "Step 1 took 3.5 s/it" looks like one'),
        ("Step 1 took 3.5 s/it\n", 'line 1 "Step 1 took 3.5 s/it" looks like one'),
        (deepspeed(1) + nanogpt(1), "several log formats fit"),
    ],
)
def test_a_log_without_a_value_says_why_and_exits_with_1(tmp_path, text, words):
    (tmp_path / "slurm.log").write_text(text)
    done = call("inspect_log", tmp_path / "slurm.log")
    assert done.returncode == 1 and words in done.stderr and words in done.stdout
    assert "0 of ? epochs" not in done.stdout


PLACES = [  # where the logs lie, what else says the GPUs, the options
    ("log/slurm-{at}.out", "", ["--gpus=slurm-11.out=1", "--gpus=12=2", "--gpus=*13*=1x4",
                                "--gpus=14=2x4"]),
    ("{nodes}_nodes/run_{gpus}g{nodes}n.log", "", []),
    ("job{at}/train.txt", "#SBATCH --nodes={nodes}\n#SBATCH --gres=gpu:a100:{gpus}\n", []),
    ("job{at}/slurm-{at}.out", "#SBATCH -N {nodes}\n#SBATCH --gpus-per-node={gpus}\n", []),
]  # fmt: skip


@pytest.mark.parametrize(("place", "script", "options"), PLACES, ids=range(len(PLACES)))
def test_the_number_of_gpus_comes_from(tmp_path, place, script, options):
    folder = write_study(tmp_path / "study", nanogpt, place)
    for at, (nodes, gpus) in enumerate(SCALES, start=11) if script else ():
        job = folder / f"job{at}/job.slurm"
        job.write_text("#!/bin/bash\n" + script.format(nodes=nodes, gpus=gpus))
    done = call("fill_tables", folder, *options)
    assert cells(done, "Parallel Efficiency (%)") == ["100.0", "95.0", "90.0", "100.0", "85.0"]


def test_what_a_log_does_not_say_is_asked_for_in_the_cell(tmp_path):
    (tmp_path / "train.log").write_text(torchtitan(4).replace("[4]", "?"))
    done = call("fill_tables", tmp_path)
    assert "add --gpus train.log=N" in done.stdout
    assert cells(done, "Throughput (img/s)") == []


def test_a_run_without_a_number_of_gpus_names_the_option(tmp_path):
    (tmp_path / "12.out").write_text(nanogpt(4))
    done = call("fill_tables", tmp_path)
    assert "say its GPUs with --gpus 12.out=N" in done.stdout
    done = call("scaling_tables", tmp_path)
    assert done.returncode == 1 and "--gpus 12=N says it" in done.stderr
    assert "a file: name the folder" in call("fill_tables", tmp_path / "12.out").stderr
    done = call("fill_tables", tmp_path, "--gpus", "12=1")
    assert cells(done, "Throughput (tokens/s)") == ["3600.0"]


FOREIGN = [  # a file of others, the command that reads it
    ("seven/training_metrics.json", '{"epochs": [{"tokens_per_sec_global": 1.0}], "world_size": 4}',
     "python scripts/scaling_tables.py --gpu4 "),
    ("a/b.json", '{"epochs": [{"tokens_per_sec_global": 1.0}], "summary": {}}',
     "python scripts/scaling_tables.py --gpuN "),
    ("mine.log", "Step 10 | 512.3 images/sec\n", "python scripts/inspect_log.py "),
    ("notes.md", "Step 10 | 512.3 images/sec\n", "name the folder that holds"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "command"), FOREIGN)
def test_a_folder_of_others_files_names_the_command_that_reads_them(tmp_path, name, text, command):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    done = call("fill_tables", tmp_path)
    assert done.returncode == 1 and command in done.stderr and done.stderr.count("\n") == 1
    assert str(tmp_path / name) in done.stderr or name.endswith("md")


def test_a_scale_without_its_nodes_is_not_called_one_node(tmp_path):
    (tmp_path / "a.log").write_text(megatron(4))
    done = call("fill_tables", tmp_path)
    assert cells(done, "Throughput (samples/s)") == ["3600.0"]
    assert "| 4 GPUs [" in done.stdout and "--gpus a.log=NODESxGPUS says it" in done.stdout
    launched = "+ torchrun --nnodes=2 --nproc_per_node=2 pretrain.py\n"
    (tmp_path / "a.log").write_text(launched + megatron(4))
    (run,) = find_runs(tmp_path)
    assert (run.nodes, run.gpus_per_node, run.gpus) == (2, 2, 4)


def test_a_contradiction_is_no_number(tmp_path):
    (tmp_path / "ddp_2g1n_12.out").write_text(torchtitan(4))
    (run,) = find_runs(tmp_path)
    assert "it says 4 GPUs, its name, folder or script 2" in run.log_problem
    assert run.attempt is None or run.attempt.last is None


def test_python_logging_goes_to_the_log_of_errors(tmp_path):
    (tmp_path / "ddp_4g1n_12.out").write_text("Job starts\n")
    (tmp_path / "ddp_4g1n_12.err").write_text(torchtitan(4))
    (run,) = find_runs(tmp_path)
    assert (run.id, run.gpus, str(run.state)) == ("12", 4, "complete")
    assert float(run.attempt.last.throughput_per_s) == pytest.approx(3600)


def test_a_log_that_gives_nothing_is_named_beside_those_that_do(tmp_path):
    (tmp_path / "ddp_4g1n_12.out").write_text(deepspeed(4))
    (tmp_path / "ddp_1g1n_13.out").write_text("Step 1 | 512.3 images/sec\n")
    (tmp_path / "ddp_2g1n_14.out").write_text("srun: error: n1: task 0: Out Of Memory\n")
    states = {run.id: str(run.state) for run in find_runs(tmp_path)}
    assert states == {"12": "complete", "13": "running", "14": "out of memory"}
    done = call("fill_tables", tmp_path)
    assert cells(done, "Throughput (samples/s)") == ["3600.0"]
    assert 'line 1 "Step 1 \\| 512.3 images/sec" looks like one' in done.stdout
    assert "job 14: out of memory" in done.stdout


def test_a_failed_run_stays_failed(tmp_path):
    text = deepspeed(4) + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
    (tmp_path / "ddp_4g1n_12.out").write_text(text)
    (run,) = find_runs(tmp_path)
    assert str(run.state) == "out of memory" and not run.is_usable


def test_the_frames_have_a_row_per_window(tmp_path):
    runs = find_runs(write_study(tmp_path / "study", nanogpt))
    assert choose_workload(runs) == "nanogpt"
    frame = make_frames(runs, ["epochs"])["epochs"]
    assert len(frame) == 40 and frame["is_warmup"].sum() == 4
    assert frame["step_s"].iloc[-1] == pytest.approx(8 * 1500 / 6800)
    assert "--fixed-work divides the throughputs" in call("scaling_tables", tmp_path).stdout
    study = make_study(runs, "nanogpt")
    assert study.scales["wall_s"].isna().all()  # unlike work has no common time


def test_epoch_lines_of_any_unit_without_a_record_are_a_workload(tmp_path):
    for gpus in (1, 2):
        lines = [f"Epoch [{n}/2] Throughput: {gpus * 100}.0 tokens/s" for n in (1, 2)]
        text = "\n".join([*lines, "Total training time: 9.0 s"]) + "\n"
        (tmp_path / f"ddp_{gpus}g1n_{gpus}.out").write_text(text)
    done = call("fill_tables", tmp_path)
    assert cells(done, "Throughput (tokens/s)")[:2] == ["100.0", "200.0"]
    assert "Train Loss (Epoch 2)" in done.stdout


def test_a_trainer_of_the_matrix_is_known_by_its_job_folder(tmp_path):
    (tmp_path / "matrix.toml").write_text(
        '[jobs.a]\nfolder = "mine/baseline"\nworkload = "graphs"\n'
    )
    job = tmp_path / "mine/baseline"
    (job / "log").mkdir(parents=True)
    (job / "log/a_12.out").write_text("Epoch [1/1] Throughput: 10.0 img/s\n")
    (job / "results/12").mkdir(parents=True)
    (job / "results/12/job_end.json").write_text('{"exit_status": 0, "elapsed_s": 9}')
    (run,) = find_runs(tmp_path)
    assert (run.workload, run.gpus, run.reason) == ("graphs", 1, "complete")
    (job / "results/12/job_end.json").write_text('{"exit_status": 1, "elapsed_s": 9}')
    assert str(find_runs(tmp_path)[0].state) == "failed"


def test_our_epoch_lines_win_over_a_format(tmp_path):
    text = deepspeed(1) + "".join(epoch_line(n) + "\n" for n in (1, 2, 3))
    (tmp_path / "ddp_1g1n_12.out").write_text(text + "Total training time: 93.1 s\n")
    (run,) = find_runs(tmp_path, choice=LogChoice())
    assert [epoch.epoch for epoch in run.attempt.epochs] == [1, 2, 3]
    assert run.log.counts.is_whole
    shutil.rmtree(tmp_path)
