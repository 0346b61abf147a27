"""Judge what one node shows alone: its folders, /dev/shm, CPUs and data.

Pure functions from what preflight.py --node wrote to verdicts.
"""

from collections.abc import Callable

from doctor.preflight_gpus import judge_gpus, judge_torch
from doctor.preflight_verdict import (
    FAIL,
    OK,
    WARN,
    Asked,
    Finding,
    Verdict,
    judge_fact,
    lack_fact,
    merge,
)

GIB = 1024  # in MiB
# Loaders hand batches to their rank through /dev/shm; containers often have 64 MiB of it.
LEAST_SHM_MIB, GOOD_SHM_MIB_PER_RANK = 256, 512
LEAST_FREE_MIB, GOOD_FREE_MIB = 256, 10 * GIB
# A UNIX socket's path has 107 characters (unix(7)); Python's loaders add up to 40 to TMPDIR.
LONGEST_TMP = 60


def judge_nodes(tasks: list[dict], asked: Asked) -> list[Verdict]:
    """Judge everything that a node shows alone."""
    checks: dict[str, tuple[str, Callable[[dict, Asked], Finding]]] = {
        "log folder": ("log", judge_log),
        "run folder": ("run_dir", judge_run_dir),
        "temporary files": ("tmp", judge_tmp),
        "/dev/shm": ("shm", judge_shm),
        "CPUs": ("cpus", judge_cpus),
    }
    verdicts = []
    for check, (fact, judge) in checks.items():
        rows = [(task["host"], judge_fact(task, fact, judge, asked)) for task in tasks]
        verdicts.append(merge(check, rows, asked.nodes))
    rows = [(t["host"], judge_fact(t, "torch", judge_torch, asked)) for t in tasks]
    verdicts.append(merge("PyTorch", rows, asked.nodes))
    verdicts += [judge_gpus(tasks, asked), *judge_data(tasks, asked)]
    return verdicts


def judge_log(found: dict, _: Asked) -> Finding:
    """The log lies in a folder that this node sees."""
    if found["seen"]:
        return OK, "seen", ""
    return (
        FAIL,
        f"the job's log is not to be seen in {found['folder']}",
        "work in a folder that all nodes share, such as scratch; make log/ there",
    )


def judge_space(found: dict, name: str, move: str) -> Finding:
    """A folder takes files, and has room."""
    where = found["path"]
    if "error" in found:
        return FAIL, f"{where}: {found['error']}", f"{name} must take files: {move}"
    free = found["free_mib"]
    shown = f"{show_mib(free)} free in {where}"
    if free < LEAST_FREE_MIB:
        return FAIL, shown, f"free some space, or {move}"
    if free < GOOD_FREE_MIB:
        return WARN, shown, f"enough for logs, hardly for checkpoints: free some, or {move}"
    return OK, shown, ""


def judge_run_dir(found: dict, _: Asked) -> Finding:
    """Where results go."""
    return judge_space(found, "the run folder", "send results elsewhere with RUN_DIR=… sbatch …")


def judge_tmp(found: dict, _: Asked) -> Finding:
    """Where temporary files go."""
    finding = judge_space(found, "TMPDIR", "set TMPDIR in [env] to a larger folder of the node")
    if finding[0] == OK and len(found["path"]) > LONGEST_TMP:
        todo = "set TMPDIR in [env] to a short path: sockets below it may have 107 characters"
        return WARN, f"{found['path']} is {len(found['path'])} characters long", todo
    return finding


def judge_shm(found: dict, asked: Asked) -> Finding:
    """Room for the loaders' batches."""
    free, total = found["free_mib"], found["total_mib"]
    good = GOOD_SHM_MIB_PER_RANK * asked.gpus_per_node
    shown = f"{show_mib(free)} of {show_mib(total)} free"
    if free < LEAST_SHM_MIB:
        todo = "loader workers will die with a bus error: give the container a larger /dev/shm "
        return FAIL, shown, f"{todo}(--shm-size, --ipc=host), or train with num-workers = 0"
    if free < good:
        todo = f"{show_mib(good)} would be safe for {asked.gpus_per_node} ranks' loaders"
        return WARN, shown, f"{todo}: a larger /dev/shm, or fewer num-workers"
    return OK, shown, ""


def judge_cpus(found: dict, asked: Asked) -> Finding:
    """CPUs that the task may use, against what it asked for."""
    usable, wanted = found["usable"], asked.cpus_per_task
    ranks = asked.gpus_per_node // asked.tasks_per_node
    if wanted is None:
        if usable <= ranks:
            todo = "set cpus_per_gpu in the profile: loaders and ranks share these CPUs"
            return WARN, f"{usable} for {ranks} ranks, none asked for", todo
        return OK, f"{usable} for {ranks} ranks, none asked for", ""
    shown = f"{usable} usable of {wanted} asked for"
    if usable >= wanted:
        return OK, shown, ""
    if usable == found["online"]:
        todo = "the node has no more, whatever Slurm says: lower cpus_per_gpu"
        return WARN, f"{shown}: all of the node's", todo
    todo = "srun passes on --cpus-per-task only when told (22.05 and later), and --hint or "
    return FAIL, shown, f"{todo}--cpu-bind may halve it: see srun_args and hint in the profile"


def judge_data(tasks: list[dict], asked: Asked) -> list[Verdict]:
    """Each data folder, on every node."""
    folders = dict.fromkeys(
        (row["name"], row["path"])
        for task in tasks
        if isinstance(task.get("data"), list)
        for row in task["data"]
    )
    if not folders:
        rows = [
            (t["host"], (WARN, "no folder is set", "set data_dir in the profile, or DATA_DIR"))
            if isinstance(t.get("data"), list)
            else (t["host"], lack_fact(t, "data"))
            for t in tasks
        ]
        return [merge("data", rows, asked.nodes)]
    return [judge_folder(tasks, asked, *folder) for folder in folders]


def judge_folder(tasks: list[dict], asked: Asked, name: str, path: str) -> Verdict:
    """One data folder, on every node."""
    rows = []
    for task in tasks:
        data = task.get("data") if isinstance(task.get("data"), list) else []
        row = next((row for row in data if row["path"] == path), None)
        if row is None:
            finding = lack_fact(task, "data")
        elif "error" in row:
            todo = "put the data where every node can read it; set data_dir in the profile"
            finding = (FAIL, f"{path}: {row['error']}", todo)
        elif row["seconds"] > 5:
            found = f"{path}: the first file took {row['seconds']:.0f} s"
            finding = (WARN, found, "a busy file system: pack the data, or stage it to the node")
        else:
            finding = (OK, f"{path} is readable", "")
        rows.append((task["host"], finding))
    return merge("data" if name == "DATA_DIR" else f"data of {name}", rows, asked.nodes)


def show_mib(mib: float) -> str:
    """64 -> `64 MiB`, 2048 -> `2.0 GiB`."""
    return f"{mib:.0f} MiB" if mib < GIB else f"{mib / GIB:.1f} GiB"
