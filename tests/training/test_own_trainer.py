"""A small trainer of a reader's own gets records, requeue and tables from five calls."""

import json
from pathlib import Path

from filled_tables import call
from torch_server import TESTS, run_python

LINE = TESTS / "linear_trainer.py"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_records_requeue_and_tables(tmp_path):
    job = tmp_path / "line/baseline"
    whole, cut, rest = (job / "results" / name for name in ("11", "12", "12.1"))
    checkpoints = f"--checkpoint-dir={tmp_path / 'checkpoints'}"
    done = run_python(LINE, f"--workdir={whole}", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Throughput: ") == 3
    assert " | Throughput: " in done.stdout and "erplexity" not in done.stdout
    warned = tmp_path / "warned.py"  # as by Slurm, shortly before the time limit
    warning = "os.kill(os.getpid(), 10) if run.total_steps == 2 else None; run.end_step()"
    warned.write_text(LINE.read_text().replace("run.end_step()", warning))
    first = run_python(warned, f"--workdir={cut}", checkpoints, ranks=2)
    assert first.returncode == 0 and (cut / "REQUEUE").exists(), first.stderr
    second = run_python(LINE, f"--workdir={rest}", checkpoints, ranks=2)
    assert second.returncode == 0, second.stderr
    metrics = [read(folder / "training_metrics.json")["epochs"] for folder in (whole, rest)]
    assert [e["train_loss_avg_global"] for e in metrics[0]] == [
        e["train_loss_avg_global"] for e in metrics[1]
    ]
    assert metrics[0][0]["samples_processed_global"] == 256
    assert read(rest / "run.json")["resumed_from"]["step"] >= 1
    assert (rest / "RUN_COMPLETE.txt").exists()
    table = call("scaling_tables", tmp_path, "--workload", "line", "--fixed-work")
    assert table.returncode == 0 and "| 2 " in table.stdout, table.stderr


def test_a_loader_that_cannot_resume_is_refused(tmp_path):
    text = LINE.read_text().replace(
        "batch_sampler=ResumableBatches(sampler, plan.per_gpu)", "plan.per_gpu, sampler=sampler"
    )
    other = tmp_path / "other.py"
    other.write_text(text)
    done = run_python(other, f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 1 and "batch_sampler=ResumableBatches" in done.stderr
