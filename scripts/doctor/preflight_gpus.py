"""Judge whether PyTorch can be used on every node, and the GPUs that it sees there."""

from doctor.preflight_verdict import FAIL, NOT_RUN, OK, WARN, Asked, Finding, Verdict, merge


def judge_torch(found: dict, asked: Asked) -> Finding:
    """PyTorch can be imported, and computes on each GPU that it sees."""
    if "error" in found:
        todo = "activate PyTorch in setup (or step_setup, or the container) of the profile"
        return FAIL, found["error"], todo
    build = (found.get("hip") and f"ROCm {found['hip']}") or f"CUDA {found.get('cuda')}"
    shown = f"{found['version']} ({build})"
    broken = [gpu for gpu in found["gpus"] if gpu.get("error")]
    if broken:
        todo = "load a PyTorch built for this GPU and driver; an ECC or Xid error is the site's"
        return FAIL, f"{shown} cannot use the {broken[0]['name']}: {broken[0]['error']}", todo
    return OK, shown, ""


def judge_gpus(tasks: list[dict], asked: Asked) -> Verdict:
    """GPUs that the tasks of each node see together, against those asked for."""
    check = "GPUs"
    if asked.accelerator == "none":
        found = "none looked for: the profile's accelerator is none"
        return Verdict(check, OK if tasks else NOT_RUN, found if tasks else "no node told anything")
    rows = []
    for host in dict.fromkeys(task["host"] for task in tasks):
        mine = [task for task in tasks if task["host"] == host]
        lacking = next((t for t in mine if "gpus" not in (t.get("torch") or {})), None)
        if lacking:
            finding = (NOT_RUN, "PyTorch did not tell", "mend PyTorch first")
        else:
            finding = count_gpus(mine, asked)
        rows.append((host, finding))
    return merge(check, rows, asked.nodes)


def count_gpus(tasks: list[dict], asked: Asked) -> Finding:
    """Judge the GPUs of one node."""
    seen = [gpu for task in tasks for gpu in task["torch"]["gpus"]]
    named = {gpu["uuid"] for gpu in seen}
    # Without UUIDs, tasks that see one GPU each are taken to see different ones.
    alone = [len(task["torch"]["gpus"]) for task in tasks]
    count = len(named) if None not in named else sum(alone) if max(alone) == 1 else max(alone)
    models = ", ".join(dict.fromkeys(gpu["name"] for gpu in seen))
    shown = f"{count} of {asked.gpus_per_node} visible{': ' if models else ''}{models}"
    if count == asked.gpus_per_node:
        return OK, shown, ""
    if count > asked.gpus_per_node:
        todo = "Slurm does not hide other jobs' GPUs: set exclusive, or take care which you use"
        return WARN, shown, todo
    if count:
        return FAIL, shown, "gpu_request: a task sees fewer than it asked for; try another dialect"
    driver = (tasks[0].get("driver") or {}).get(asked.accelerator)
    if driver is False:
        todo = "training would run on CPUs: ask for nodes with GPUs (partition, gpu_request), or "
        return FAIL, f"{shown}; no {asked.accelerator} driver", todo + 'set accelerator = "none"'
    visible = tasks[0]["torch"].get("visible_devices")
    if not visible:
        todo = 'Slurm gave the step no GPU: gpu_request, or srun_args = ["--gres=gpu:N"]'
        return (
            FAIL,
            f"{shown}; CUDA_VISIBLE_DEVICES is {'empty' if visible == '' else 'unset'}",
            todo,
        )
    return FAIL, shown, "this PyTorch cannot use the driver: load the site's, or an older CUDA's"
