"""The faults, as data: what is done to a job, and what its last five lines must then say.

Numbers such as #18 are those of the list of faults that the project started from.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from slurm_cluster import VirtualSlurm

LONG = {"STANDIN_STEPS": "100", "STANDIN_STEP_S": "0.1"}  # 10 s per epoch
SHORT = {"STANDIN_STEPS": "10"}


@dataclass
class Fault:
    """One row: `says` are patterns that the last five lines must hold, `state` is Slurm's.

    when, send: once `when` stands in the log, send(cluster, job id, log); restarts: Slurm then
    queues the job again, and the end of the second attempt counts.
    """

    name: str
    what: str
    says: tuple[str, ...] = ()
    state: str = "FAILED"
    env: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()  # of sbatch
    job: str = "ddp_2g2n"
    profile: tuple[str, str] = ("", "")  # a text of the profile, and what stands instead
    has_torchrun: bool = False  # the real one: its own words are part of the fault
    real_trainer: bool = False
    when: str = "rank 0 begins"
    send: Callable[[VirtualSlurm, str], None] | None = None
    restarts: bool = False
    prepare: Callable[[VirtualSlurm, Path], dict[str, str]] | None = None  # returns variables
    no_log_folder: bool = False  # log/ is missing, and ours is submitted by submit.py
    quick: bool = False
    within_s: float = 60  # from the submission, or from what was sent, to the end
    needs: str = ""  # hardware that no virtual cluster has: then it is not injected


def standin(fault: str, **env: str) -> dict[str, str]:
    return {**SHORT, "STANDIN_FAULT": fault, **env}


# ---- What is done to a job ---------------------------------------------------------------


def warn(slurm: VirtualSlurm, job: str) -> None:
    """What Slurm's timer sends shortly before the time limit."""
    slurm.run("scancel", "--signal=USR1", job)


def preempt(slurm: VirtualSlurm, job: str) -> None:
    """What a preemption by requeue does: SIGTERM, and the job is queued again."""
    slurm.run("scontrol", "requeue", job)


def cancel(slurm: VirtualSlurm, job: str) -> None:
    slurm.run("scancel", job)


def kill_rank(slurm: VirtualSlurm, job: str) -> None:
    ranks = [pid for pid, words in slurm.processes_of(job).items()
             if "scripts/train.py" in words and "torchrun" not in words]  # fmt: skip
    os.kill(max(ranks), signal.SIGKILL)


# ---- What is done to a node --------------------------------------------------------------


def hold_port(slurm: VirtualSlurm, folder: Path) -> dict[str, str]:
    """Listen on the port that the naive script takes, and on those of the next jobs' ids."""
    ids = slurm.run("squeue", "--states=all", "--noheader", "--format=%i").split()
    last = max(map(int, ids), default=0)
    ports = [29500, *(10000 + (last + more) % 20000 for more in range(1, 4))]
    hold = f"import socket,time; h=[socket.create_server(('', p)) for p in {ports}]; time.sleep(90)"
    slurm.start_on("node1", sys.executable, "-c", hold)
    time.sleep(1)
    return {}


def full_disk(slurm: VirtualSlurm, folder: Path) -> dict[str, str]:
    slurm.mount_small(folder / "full")
    return {"RUN_DIR": str(folder / "full")}


def no_data(slurm: VirtualSlurm, folder: Path) -> dict[str, str]:
    (folder / "empty").mkdir()
    return {"DATA_DIR": str(folder / "empty")}


def file_as_run_dir(slurm: VirtualSlurm, folder: Path) -> dict[str, str]:
    (folder / "file").write_text("")
    return {"RUN_DIR": str(folder / "file/run")}


RANK = r"rank 3\b"
FAULTS = [
    # A rank that ends
    Fault("rank-raises", "#17 a rank raises in its second step; a pipe, a trailing echo",
          ("rank 3", "node2", "cannot decode"), env=SHORT | {"STANDIN_FAILS_RANK": "3"},
          quick=True),
    Fault("rank-exits-7", "a rank calls os._exit(7)", (RANK, r"\b7\b"),
          env=standin("exit7 12 3"), has_torchrun=True, quick=True),
    Fault("rank-exits-0", "a rank leaves with status 0 in mid-training", ("rank 2 on node1",),
          env={"HANG": "gone"}, job="spiral_mlp_4gpu", real_trainer=True, within_s=120),
    Fault("rank-killed", "#18 #19 SIGKILL to a rank of the second node", ("SIGKILL|signal 9",),
          env=LONG, has_torchrun=True, when="rank 3 begins", send=kill_rank, within_s=30),
    Fault("rank-exits-early", "a rank exits before it meets the others", (RANK, r"\b5\b"),
          env=standin("exit5 start 3"), has_torchrun=True),
    Fault("exits-after-end", "non-zero exit after RUN_COMPLETE.txt", ("complete",),
          env=standin("exit3 end 3"), has_torchrun=True),
    Fault("memory-error", "#21 MemoryError in a rank", ("out of memory", "--mem"),
          env=standin("memory 12 1"), quick=True),
    Fault("orphan", "#35 a rank leaves a process of its own session", ("leaves a process",),
          env=standin("orphan 12 1"), quick=True),
    Fault("lies", "log text that looks like Slurm's and like an epoch line", ("the true cause",),
          env=standin("lies 12 0")),
    # Signals
    Fault("usr1-early", "#24 SIGUSR1 before the trainer can hear it", ("complete",), "COMPLETED",
          env=SHORT | {"STANDIN_START_S": "4"}, when="GPU memory is not", send=warn,
          restarts=True, quick=True),
    Fault("usr1", "#25 SIGUSR1 meets torchrun", ("complete",), "COMPLETED", env=LONG, send=warn,
          restarts=True, has_torchrun=True),
    Fault("teardown", "a crash after the save, REQUEUE is there", ("complete",), "COMPLETED",
          env=LONG | {"STANDIN_FAULT": "teardown saved 0"}, send=warn, restarts=True),
    Fault("preempted", "#26 #31 preemption: SIGTERM and a requeue", ("complete",), "COMPLETED",
          env=LONG, send=preempt, restarts=True),
    Fault("cancelled", "scancel", ("cancelled",), "CANCELLED", env=LONG, send=cancel, within_s=30),
    Fault("time-limit", "the time limit, no signal before", ("timed out|time limit", "--time"),
          "TIMEOUT", env=LONG | {"STANDIN_STEPS": "2000"}, options=("--time=1", "--signal=KILL@0"),
          job="ddp_1g1n", within_s=150),
    Fault("no-log-folder", "#1 log/ is missing", ("complete",), "COMPLETED", env=SHORT,
          job="ddp_1g1n", no_log_folder=True, quick=True),
    Fault("port-taken", "#2 the port is held by another process", ("complete",), "COMPLETED",
          env=SHORT, has_torchrun=True, prepare=hold_port),
    Fault("name-unknown", "#6 the master's name has no address on the nodes",
          ("cannot resolve node1.invalid", "node"), env=SHORT | {"NAIVE_MASTER": "node1.invalid"},
          profile=("setup =", 'master = { suffix = ".invalid" }\nsetup ='),
          has_torchrun=True, within_s=30),
    Fault("interface", "#7 GLOO_SOCKET_IFNAME names no interface", ("no network interface nope",
          "ib0"), env=SHORT, profile=('"ib0"', '"nope"'), quick=True),
    Fault("export-none", "#12 sbatch --export=NONE", ("complete",), "COMPLETED", env=SHORT,
          options=("--export=REPO_DIR,DATA_DIR,STANDIN_STEPS,PATH",)),
    Fault("no-environment", "#13 the environment to activate is missing", ("setup_env.sh|No such",),
          profile=(".venv/bin", "no/such")),
    Fault("no-run-dir", "RUN_DIR that cannot be made", ("error: .*RUN_DIR",), env=SHORT,
          prepare=file_as_run_dir, job="ddp_1g1n"),
    Fault("relative-run-dir", "RUN_DIR=elsewhere", ("complete",), "COMPLETED",
          env=SHORT | {"RUN_DIR": "elsewhere"}, job="ddp_1g1n"),
    Fault("no-data", "#43 the data folder is empty", ("no train/ in", "DATA_DIR"), env=SHORT,
          prepare=no_data),
    Fault("disk-full", "#44 the disk of the results is full", ("No space left", "free"),
          env=standin("full 12 0"), prepare=full_disk, job="ddp_1g1n"),
    # The rank that hangs: a real trainer, four ranks that talk through gloo
    *(
        Fault(f"hang-{how.replace(' ', '-')}", f"#20 {what}", ("rank 2 on node1", "never reached"),
              env={"HANG": how}, job="spiral_mlp_4gpu", real_trainer=True, within_s=120)
        for how, what in [("stopped", "SIGSTOP of one rank of four"), ("asleep", "a rank sleeps"),
                          ("elsewhere", "a rank waits in another collective")]
    ),
    # What a virtual cluster cannot have
    Fault("gpu-lost", "Xid, a GPU falls off the bus", needs="an NVIDIA GPU"),
    Fault("ecc", "uncorrectable ECC error", needs="an NVIDIA GPU"),
    Fault("nccl-timeout", "NCCL's watchdog ends a rank", needs="NVIDIA GPUs"),
    Fault("oom-kill", "#21 the kernel kills for the job's memory limit", needs="cgroups of Slurm"),
    Fault("slow-network", "InfiniBand falls back to sockets", needs="InfiniBand"),
]  # fmt: skip
