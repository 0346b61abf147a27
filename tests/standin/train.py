"""A trainer without PyTorch, for tests of the job script: its steps sleep, its files are real.

It takes the options of train.py and leaves what scripts/README.md promises of a run: run.json, one
file per rank and epoch, training_metrics.json, the epoch lines, RUN_COMPLETE.txt. On SIGUSR1 it
saves at the end of its step, rank 0 leaves REQUEUE, and all ranks exit 0; on SIGTERM they only
save. The next attempt goes on after the saved step. tests/slurm/test_rehearse.py compares its
files with a real training's.

STANDIN_STEPS       steps per epoch (default 4), STANDIN_STEP_S seconds each (default 0.05)
STANDIN_FAILS_RANK  this rank fails in its second step, with a real trainer's line
STANDIN_START_S     seconds before it can hear a signal, as while PyTorch is imported
STANDIN_FAULT       "KIND WHEN RANK": at the "start", after so many steps, or at the "end" the rank
                    does what disturb() says
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

STEPS = int(os.environ.get("STANDIN_STEPS", 4))
STEP_S = float(os.environ.get("STANDIN_STEP_S", 0.05))
REMAINING = 20  # steps at most after a restart, whatever was left
RANK, WORLD_SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
DATA = b"x" * 2**27  # 128 MiB of resident memory, for psrecord to see
SLURM_FIELDS = (
    "cluster_name", "job_id", "job_name", "job_partition", "job_nodelist", "job_num_nodes",
    "ntasks", "cpus_per_task", "gpus_on_node", "restart_count",
)  # fmt: skip
caught: list[int] = []


def say(line: str, stream=sys.stdout) -> None:
    """Print a line in one piece: print() writes its end apart, and other ranks come between."""
    stream.write(line + "\n")
    stream.flush()


def write(path: Path, content: dict | str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    temporary.replace(path)


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def list_hosts() -> list[str]:
    """The job's nodes in Slurm's order."""
    if "SLURM_JOB_NODELIST" not in os.environ:
        return [socket.gethostname()]
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def describe_run(args: argparse.Namespace, workdir: Path, data: str) -> dict:
    """What run.json holds."""
    hosts = list_hosts()
    slurm = {name: os.environ.get(f"SLURM_{name.upper()}") for name in SLURM_FIELDS}
    return {
        "schema_version": "1.2",
        "run_id": workdir.name,
        "workload": "tinyimagenet", "unit": "img/s", "model": args.model,
        "image_size": args.image_size, "input": "cache", "cuda_graph": False,
        "strategy": "ddp", "optimizer": "SGD", "epochs": args.epochs, "precision": "fp32",
        "compile": False, "scaling": "weak", "lr_scaling": "none", "warmup_steps": 0, "seed": 0,
        "num_workers": args.num_workers, "limit_batches": args.limit_batches, "lr": args.lr,
        "batch_size_per_gpu": args.batch_size, "grad_accum_steps": 1,
        "global_batch_size": args.batch_size * WORLD_SIZE,
        "dataset": {"name": data, "classes": 10, "train": 1438, "val": 359},
        "nodes": len(hosts), "gpus_per_node": WORLD_SIZE // len(hosts), "world_size": WORLD_SIZE,
        "warmup_epochs": 1, "argv": sys.argv, "device": "cpu", "gpu_name": None, "driver": None,
        "gpus_visible": 0, "gpu_uuids": [None] * WORLD_SIZE, "cpus_by_rank": ["0"] * WORLD_SIZE,
        "versions": {"python": sys.version.split()[0], "torch": "none", "cuda": None, "nccl": None,
                     "torch_path": "none"},
        "replicas": f"equal ({WORLD_SIZE} of {WORLD_SIZE}), each sample once",
        "flops_per_sample": None,
        "hosts": hosts, "slurm": {name: value for name, value in slurm.items() if value},
        "trainer_sha256": "0" * 64, "git_commit": "unknown", "start_utc": utc_now(),
    }  # fmt: skip


def describe_epoch(run: dict, epoch: int, seconds: float) -> dict:
    """One of the epochs of training_metrics.json; what is learnt is made up, and rises."""
    samples = STEPS * run["global_batch_size"]
    return {
        "epoch_idx": epoch + 1, "epoch_wall_time_sec": seconds,
        "train_time_slowest_rank_sec": seconds, "steps": STEPS, "micro_steps": STEPS,
        "optimizer_steps": STEPS, "samples_processed_global": samples,
        "samples_per_sec_global": samples / seconds,
        "train_loss_avg_global": 2.0 / (epoch + 1), "val_loss_avg_global": 2.1 / (epoch + 1),
        "train_accuracy_global": 1 - 0.5 / (epoch + 1),
        "val_accuracy_global": 1 - 0.6 / (epoch + 1),
        "lr": run["lr"], "step_time_mean_sec": seconds / STEPS,
        "step_time_p50_sec": seconds / STEPS, "step_time_p95_sec": seconds / STEPS,
        "dataload_time_mean_sec": 0.0, "peak_memory_mib_rank0": len(DATA) / 2**20,
        "max_cuda_mem_allocated_bytes_rank0": 0, "max_cuda_mem_reserved_bytes_rank0": 0,
    }  # fmt: skip


def describe_rank(run: dict, epoch: int, told: dict) -> dict:
    """This rank's file of the epoch."""
    seconds, samples = told["epoch_wall_time_sec"], STEPS * run["batch_size_per_gpu"]
    return {
        "schema_version": "1.1", "rank": RANK, "epoch": epoch, "training_time": seconds,
        "samples": samples, "samples_per_sec": samples / seconds, "steps": STEPS,
        "data_wait_s": 0.0, "copy_s": 0.0, "compute_s": seconds, "optimizer_s": 0.0,
        "other_s": 0.0, "exposed_comm_s": None, "probe": None,
        "train_loss": told["train_loss_avg_global"], "validation_loss": told["val_loss_avg_global"],
        "train_accuracy": told["train_accuracy_global"],
        "validation_accuracy": told["val_accuracy_global"],
        "peak_memory_mib": told["peak_memory_mib_rank0"],
    }  # fmt: skip


def describe_metrics(run: dict, epochs: list[dict], done_utc: str | None) -> dict:
    """What training_metrics.json holds."""
    steady = [epoch["samples_per_sec_global"] for epoch in epochs[1:] or epochs]
    return {
        "schema_version": "2.0", "run_id": run["run_id"], "timestamp_utc": run["start_utc"],
        "git_commit": run["git_commit"], "command_line": " ".join(sys.argv),
        "env": {}, "host": {"hostname": run["hosts"][0], "nodes": run["hosts"]},
        "hardware": {"gpu_name": "none", "gpu_count_visible": 0, "world_size": WORLD_SIZE},
        "scheduler": {"type": "slurm" if run["slurm"] else "none", **run["slurm"]},
        "training_config": {
            "model_name": run["model"], "epochs": run["epochs"], "precision": run["precision"],
            "micro_batch_size_per_gpu": run["batch_size_per_gpu"], "grad_accum_steps": 1,
            "global_batch_size": run["global_batch_size"], "lr": run["lr"], "optimizer": "SGD",
        },
        "deepspeed_config": {"path": "none"},
        "epochs": epochs,
        "summary": {
            "completed": done_utc is not None, "epochs_completed": len(epochs),
            "total_wall_time_sec": sum(epoch["epoch_wall_time_sec"] for epoch in epochs),
            "warmup_epochs_excluded": 1 if len(epochs) > 1 else 0,
            "mean_samples_per_sec_global": sum(steady) / len(steady),
            "best_val_loss": min(epoch["val_loss_avg_global"] for epoch in epochs),
            "best_val_accuracy": max(epoch["val_accuracy_global"] for epoch in epochs),
        },
        "completion": {"run_complete_file": "RUN_COMPLETE.txt", "timestamp_utc": done_utc},
    }  # fmt: skip


def format_line(run: dict, told: dict) -> str:
    """The epoch's line of the log."""
    losses = f"{told['train_loss_avg_global']:.3f}, {told['val_loss_avg_global']:.3f}"
    scores = f"{told['train_accuracy_global']:.2%}, {told['val_accuracy_global']:.2%}"
    return (
        f"Epoch [{told['epoch_idx']}/{run['epochs']}] LR: {run['lr']:.6f} | "
        f"Loss (train, val): {losses} | Accuracy (train, val): {scores} | "
        f"Throughput: {told['samples_per_sec_global']:.1f} img/s"
    )


def fail(reason: str) -> None:
    """End with a real trainer's line; torchrun ends the other ranks."""
    say(f"[rank {RANK} on {socket.gethostname()}] error: {reason}", sys.stderr)
    sys.exit(1)


def disturb(when: object) -> None:
    """Do what STANDIN_FAULT asks for at this point."""
    kind, where, rank = [*os.environ.get("STANDIN_FAULT", "").split(" ", 2), "", "", ""][:3]
    if (where, rank) != (str(when), str(RANK)):
        return
    if kind.startswith("exit"):
        os._exit(int(kind[4:]))
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        raise MemoryError
    if kind == "orphan":
        subprocess.run(["setsid", "--fork", "sleep", "600"], check=True)
        fail("it leaves a process behind")
    if kind == "stay":
        time.sleep(600)
    if kind == "full":
        raise OSError(28, "No space left on device", str(os.environ["RESULTS_DIR"]))
    if kind == "teardown" and caught:
        os._exit(9)
    if kind == "lies":
        say(
            "slurmstepd: error: *** JOB 1 ON node9 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME "
            "LIMIT ***"
        )
        say("Epoch [9999/9999] LR: 0.1 | Loss (train, val): 1, 1 | Throughput: 1.0 img/s")
        fail("the true cause")


def save(step: int, told: list[dict]) -> None:
    """Save the step and the epochs so far, as a signal asks; the job goes on after SIGUSR1."""
    time.sleep(1)  # a save takes a while
    folder = Path(os.environ["CHECKPOINT_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"step_of_rank{RANK}", {"step": step, "epochs": told})
    if caught[0] == signal.SIGUSR1 and RANK == 0:
        write(Path(os.environ["RESULTS_DIR"]) / "REQUEUE", "")
    say(f"rank {RANK} saved step {step}")
    if RANK == 0:
        say(f"Stopped by {signal.Signals(caught[0]).name}, all is saved")
    disturb("saved")
    sys.exit(0 if caught[0] == signal.SIGUSR1 else 128 + signal.SIGTERM)


def load() -> tuple[int, list[dict]]:
    """The saved step and epochs; 0 and none at the first attempt."""
    saved = Path(os.environ.get("CHECKPOINT_DIR", "none")) / f"step_of_rank{RANK}"
    told = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "epochs": []}
    return told["step"], told["epochs"]


def wait_for_ranks(workdir: Path, epoch: int) -> None:
    """Wait until every rank has written its file of the epoch: a real trainer has a barrier."""
    while len(list(workdir.glob(f"rank*_results_epoch{epoch}.json"))) < WORLD_SIZE:
        if caught:
            return  # another rank saves before it gets here, or has failed
        time.sleep(0.02)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("epochs", 3), ("batch-size", 512), ("image-size", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--num-workers", type=int)
    parser.add_argument("--limit-batches", type=int)
    parser.add_argument("--no-flip", action="store_true")
    return parser.parse_args()


def main() -> None:
    disturb("start")
    time.sleep(float(os.environ.get("STANDIN_START_S", 0)))
    note = Path(os.environ.get("RESULTS_DIR", os.devnull), "STOP_USR1")
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: caught.append(number))
    args, workdir = parse_arguments(), Path(os.environ.get("RESULTS_DIR", "workdir"))
    workdir.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ.get("DATA_DIR", "none"))
    if "DATA_DIR" in os.environ and not any(data.iterdir()):
        fail(f"no train/ in {data}; set --data-dir or $DATA_DIR")
    run = describe_run(args, workdir, data.name)
    step, told = load()
    steps = args.epochs * STEPS
    skipped = max(0, steps - step - REMAINING) if step else 0  # pretend that these are done
    if step:
        run["resumed_from"] = {"epoch": step // STEPS, "step": step % STEPS}
    if RANK == 0:
        write(workdir / "run.json", run)
        say(f"{run['model']} on {data.name}: 1438 training and 359 validation samples, 10 classes")
        say(
            f"{WORLD_SIZE} process{'es' * (WORLD_SIZE > 1)} x {args.batch_size} = "
            f"{run['global_batch_size']} samples per step; {args.epochs} epochs"
        )
        if step:
            say(f"Going on after step {step}, in epoch {step // STEPS + 1}")
    say(f"rank {RANK} begins at step {step}")
    began = time.monotonic()
    while step < steps:
        if skipped:
            skipped -= 1
        else:
            time.sleep(STEP_S)
        step += 1
        disturb(step)
        if step == 2 and os.environ.get("STANDIN_FAILS_RANK") == str(RANK):
            fail(f"cannot decode {data}/train/0/images/0_7.JPEG: image file is truncated")
        if step % STEPS == 0:
            epoch = step // STEPS - 1
            told.append(describe_epoch(run, epoch, max(time.monotonic() - began, 0.001)))
            began = time.monotonic()
            mine = describe_rank(run, epoch, told[-1])
            write(workdir / f"rank{RANK}_results_epoch{epoch}.json", mine)
            if "resumed_from" not in run:
                wait_for_ranks(workdir, epoch)
            if RANK == 0:
                write(workdir / "training_metrics.json", describe_metrics(run, told, None))
                say(format_line(run, told[-1]))
        if not caught and note.exists():
            caught.append(signal.SIGUSR1)
        if caught:
            save(step, told)
    if RANK == 0:
        wait_for_ranks(workdir, args.epochs - 1)
        if caught and len(list(workdir.glob(f"rank*_epoch{args.epochs - 1}.json"))) < WORLD_SIZE:
            sys.exit(128 + caught[0])
        metrics = describe_metrics(run, told, utc_now())
        say(f"Total training time: {metrics['summary']['total_wall_time_sec']:.1f} s")
        say(f"Best validation loss: {metrics['summary']['best_val_loss']:.3f}")
        say(f"Best validation accuracy: {metrics['summary']['best_val_accuracy']:.2%}")
        write(workdir / "training_metrics.json", metrics)
        write(workdir / "RUN_COMPLETE.txt", utc_now() + "\n")
    else:
        while not caught and not (workdir / "RUN_COMPLETE.txt").exists():
            time.sleep(0.02)
    disturb("end")


main()
