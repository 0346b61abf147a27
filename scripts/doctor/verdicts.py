"""Verdicts on a preflight job: functions from what preflight.py wrote to what it means.

A fact that is missing makes a verdict `not run`: it is never taken for ok.
"""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.torch_lines import name_line
from profiles import Cluster, Job

OK, WARN, FAIL, NOT_RUN = "ok", "warn", "FAIL", "not run"
SEE_JOB = "see the job's own line"
GIB = 1024  # in MiB
# Loaders hand batches to their rank through /dev/shm; containers often have 64 MiB of it.
LEAST_SHM_MIB, GOOD_SHM_MIB_PER_RANK = 256, 512
LEAST_FREE_MIB, GOOD_FREE_MIB = 256, 10 * GIB
# A UNIX socket's path has 107 characters (unix(7)); Python's loaders add up to 40 to TMPDIR.
LONGEST_TMP = 60
BUCKET_MIB = 25  # DDP's default
SLOW_NET_GB_PER_S = 1.0  # less than 10 Gbit Ethernet: training on GPUs would wait for it
MOST_SKEW_S = 1.0  # beyond it log lines and samples of different nodes cannot be matched


@dataclass(frozen=True)
class Asked:
    """What the job asked for."""

    nodes: int
    gpus_per_node: int
    tasks_per_node: int
    cpus_per_task: int | None
    accelerator: str

    @property
    def world_size(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Verdict:
    """One check: its status, what was found, and what to do unless it is ok."""

    check: str
    status: str
    found: str
    todo: str = ""


Finding = tuple[str, str, str]  # status, found, what to do: of one node


def describe_request(job: Job, cluster: Cluster) -> Asked:
    """Describe what `job` asks for on `cluster`."""
    return Asked(
        job.nodes, job.gpus_per_node, job.tasks_per_node, job.cpus_per_task, cluster.accelerator
    )


def merge(check: str, findings: Iterable[tuple[str, Finding]], total: int) -> Verdict:
    """Make one verdict of the nodes' findings: the worst counts, equal ones are named once."""
    findings = list(findings)
    nodes = {host for host, _ in findings}
    if len(nodes) < total:
        silent = f"{total - len(nodes)} of {total} nodes reported nothing"
        note = silent if nodes else "no node reported"
        findings.append(("", (NOT_RUN, note, SEE_JOB)))
    order = [OK, WARN, NOT_RUN, FAIL]
    worst = max((status for _, (status, *_) in findings), key=order.index)
    shown: dict[Finding, dict[str, None]] = {}
    for host, finding in findings:
        if finding[0] == worst:
            shown.setdefault(finding, {})[host] = None
    parts = []
    for (_, found, _), hosts in shown.items():
        everywhere = len(hosts) == total or not any(hosts)
        parts.append(found if everywhere else f"{', '.join(hosts)}: {found}")
    todo = dict.fromkeys(todo for _, _, todo in shown if todo)
    return Verdict(check, worst, "; ".join(parts), "; ".join(todo))


def judge_each(
    check: str, tasks: list[dict], fact: str, judge: Callable[[dict, Asked], Finding], asked: Asked
) -> Verdict:
    """Judge one fact of every task, as one verdict."""
    rows = [(task["host"], judge_fact(task, fact, judge, asked)) for task in tasks]
    return merge(check, rows, asked.nodes)


def judge_fact(
    task: dict, fact: str, judge: Callable[[dict, Asked], Finding], asked: Asked
) -> Finding:
    """Judge one fact of one task; what is missing or cut off is `not run`."""
    found = task.get(fact)
    if not isinstance(found, dict):
        return judge_missing(task, fact)
    if "error" in found and fact in ("log", "cpus", "shm"):
        return NOT_RUN, found["error"], "look at the job's log"
    return judge(found, asked)


def judge_missing(task: dict, fact: str) -> Finding:
    """Judge a fact that a task has not written."""
    stuck = task.get("in")
    if stuck == fact:
        todo = "this step hung or was killed: try it by hand on that node"
        return FAIL, f"checking {fact} did not end", todo
    where = f" (stopped in: {stuck})" if stuck else ""
    return NOT_RUN, f"not checked{where}", SEE_JOB


# ---- One node: folders, /dev/shm, CPUs, data, PyTorch ----------------------------------


def judge_nodes(tasks: list[dict], asked: Asked) -> list[Verdict]:
    """Judge everything that a node shows alone."""
    checks: dict[str, tuple[str, Callable[[dict, Asked], Finding]]] = {
        "log folder": ("log", judge_log),
        "run folder": ("run_dir", judge_run_dir),
        "temporary files": ("tmp", judge_tmp),
        "/dev/shm": ("shm", judge_shm),
        "CPUs": ("cpus", judge_cpus),
        "PyTorch": ("torch", judge_torch),
    }
    verdicts = [
        judge_each(check, tasks, fact, judge, asked) for check, (fact, judge) in checks.items()
    ]
    hardware = judge_each("links and cards", tasks, "hardware", judge_hardware, asked)
    return [*verdicts, judge_gpus(tasks, asked), hardware, *judge_data(tasks, asked)]


def judge_log(found: dict, _: Asked) -> Finding:
    """The log lies in a folder that this node sees."""
    if found["seen"]:
        return OK, "seen", ""
    return (
        FAIL,
        f"the job's log cannot be seen in {found['folder']}",
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
            else (t["host"], judge_missing(t, "data"))
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
            finding = judge_missing(task, "data")
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


# ---- GPUs ------------------------------------------------------------------------------


def judge_torch(found: dict, asked: Asked) -> Finding:
    """PyTorch can be imported, and computes on each GPU that it sees."""
    if "error" in found:
        todo = "activate PyTorch in setup (or step_setup, or the container) of the profile"
        return FAIL, found["error"], todo
    build = (found.get("hip") and f"ROCm {found['hip']}") or f"CUDA {found.get('cuda')}"
    shown = f"{found['version']} ({build})"
    broken = [gpu for gpu in found["gpus"] if gpu.get("error")]
    if broken:
        line = name_line(broken[0].get("capability"), found.get("driver"))
        todo = f"{line}; an ECC or Xid error is the site's"
        return FAIL, f"{shown} cannot use the {broken[0]['name']}: {broken[0]['error']}", todo
    return OK, shown, ""


def judge_gpus(tasks: list[dict], asked: Asked) -> Verdict:
    """GPUs that the tasks of each node see together, against those asked for."""
    check = "GPUs"
    if asked.accelerator == "none":
        found = "not checked: the profile's accelerator is none"
        return Verdict(check, OK if tasks else NOT_RUN, found if tasks else "no node reported")
    rows = []
    for host in dict.fromkeys(task["host"] for task in tasks):
        mine = [task for task in tasks if task["host"] == host]
        missing = next((t for t in mine if "gpus" not in (t.get("torch") or {})), None)
        if missing:
            finding = (NOT_RUN, "PyTorch did not report them", "fix PyTorch first")
        else:
            finding = judge_gpu_count(mine, asked)
        rows.append((host, finding))
    return merge(check, rows, asked.nodes)


def judge_gpu_count(tasks: list[dict], asked: Asked) -> Finding:
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
    if count and "MIG" in (tasks[0]["torch"].get("visible_devices") or "") + models:
        return FAIL, shown, "slices (MIG): one process sees one slice; ask for whole GPUs"
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
    torch = tasks[0]["torch"]
    todo = f"PyTorch {torch['version']} (CUDA {torch.get('cuda')}) cannot use the driver "
    return FAIL, shown, f"{todo}{torch.get('driver')}: {name_line(None, torch.get('driver'))}"


# ---- What all ranks show together ------------------------------------------------------


def judge_group(tasks: list[dict], ranks: list[dict], asked: Asked) -> list[Verdict]:
    """Judge the network's names on each node, and what the ranks measured together."""
    verdicts = [judge_interfaces(tasks, asked), judge_meeting(ranks, asked)]
    if asked.nodes > 1:
        verdicts.insert(0, judge_master(tasks, asked))
    verdicts += [judge_sum(ranks, asked), judge_speed(ranks, asked)]
    verdicts.append(judge_transport(ranks, asked, list_active_cards(tasks)))
    verdicts += judge_rank_cpus(ranks)
    if asked.nodes > 1:
        verdicts.append(judge_clock(ranks, asked))
    return verdicts


def judge_master(tasks: list[dict], asked: Asked) -> Verdict:
    """MASTER_ADDR leads every node to the first one."""
    return judge_each("master address", tasks, "master", judge_address, asked)


def judge_rank_cpus(ranks: list[dict]) -> list[Verdict]:
    """Say so where the ranks of a node may run on fewer CPUs than they are; else nothing."""
    cpus: dict[str, list[set[int]]] = {}
    for rank in ranks:
        if rank.get("cpus"):
            cpus.setdefault(rank["host"], []).append(set(rank["cpus"]))
    for host, each in cpus.items():
        if len(set.union(*each)) < len(each):
            shown = f"{host}: {len(each)} ranks share CPU {sorted(set.union(*each))}"
            todo = 'srun binds them: srun_args = ["--cpu-bind=none"], or ask for more CPUs'
            return [Verdict("CPUs of ranks", WARN, shown, todo)]
    return []


def judge_address(found: dict, _: Asked) -> Finding:
    """What one node makes of MASTER_ADDR."""
    todo = "set master in the profile: { suffix }, { interface } or { command }"
    name = found["name"]
    if "error" in found:
        return FAIL, f"{name or 'MASTER_ADDR, which is empty'}: {found['error']}", todo
    addresses = found["addresses"]
    shown = f"{name} is {', '.join(addresses)}" if [name] != addresses else name
    if all(is_loopback(address) for address in addresses):
        return FAIL, f"{shown}: loopback, where no other node listens", todo
    if found["node_id"] == 0 and not found["own"]:
        return FAIL, f"{shown}: not an address of this node, where rank 0 is", todo
    if found["node_id"] > 0 and found["own"]:
        return FAIL, f"{shown}: this node's own, but rank 0 is on the job's first", todo
    return OK, shown, ""


def is_loopback(address: str) -> bool:
    """Say whether an address leads back to the same node (127.0.0.0/8, ::1)."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def judge_interfaces(tasks: list[dict], asked: Asked) -> Verdict:
    """The interfaces that the environment chooses are on every node."""
    return judge_each("interfaces", tasks, "interfaces", judge_chosen, asked)


def judge_chosen(found: dict, _: Asked) -> Finding:
    """What the environment chooses, on one node."""
    if "error" in found:
        return NOT_RUN, found["error"], ""
    if not found["chosen"]:
        return OK, "none chosen: NCCL and gloo look for one", ""
    usable = [link for link in found["found"] if link["up"] and link["name"] != "lo"]
    names = ", ".join(link["name"] for link in usable) or "none"
    for variable, value in found["chosen"].items():
        matched = match_interfaces(variable, value, usable)
        if not matched:
            shown = f"{variable}={value}, but up here: {names}"
            return FAIL, shown, f"set {variable} in [env] to one that every node has, or leave it"
        if not any(link["ipv4"] for link in matched):
            shown = f"{variable}={value} has no IPv4 address"
            return WARN, shown, f"if ranks do not meet, set {variable} in [env] to another"
    shown = ", ".join(f"{variable}={value}" for variable, value in found["chosen"].items())
    return OK, f"{shown} is there", ""


def match_interfaces(variable: str, value: str, links: list[dict]) -> list[dict]:
    """The links that a setting chooses; none when it chooses one that is not there.

    NCCL takes beginnings of names, `=` exact ones, `^` all others (NCCL's page on environment
    variables); gloo takes names, each of which must be there.
    """
    by_name = {link["name"]: link for link in links}
    if not variable.startswith("NCCL"):
        names = [name.strip() for name in value.split(",") if name.strip()]
        return [by_name[name] for name in names] if set(names) <= set(by_name) else []
    mark = value[0] if value[0] in "^=" else ""
    words = [word.partition(":")[0].strip() for word in value.lstrip("^=").split(",")]
    words = tuple(word.lstrip("=") for word in words if word)
    exact = mark == "=" or value.startswith("^=")
    hit = [n for n in by_name if (n in words if exact else n.startswith(words))]
    return [link for name, link in by_name.items() if (name in hit) != (mark == "^")]


def judge_meeting(ranks: list[dict], asked: Asked) -> Verdict:
    """All ranks joined one process group."""
    check, size = "ranks meet", asked.world_size
    met = [rank for rank in ranks if "reduce" in rank or rank.get("in") not in ("torch", "meeting")]
    if not ranks:
        return Verdict(check, NOT_RUN, "no rank started", SEE_JOB)
    if all(rank.get("in") == "torch" for rank in ranks):
        return Verdict(check, NOT_RUN, "no rank could load PyTorch", SEE_JOB)
    if len(met) >= size:
        return Verdict(check, OK, f"{size} of {size}, over {ranks[0].get('backend')}")
    failed = next((rank for rank in ranks if rank.get("error")), None)
    message = (failed.get("nccl") or {}).get("warning") or failed["error"] if failed else ""
    cause = f"; rank {failed['rank']} on {failed['host']}: {message}" if failed else ""
    todo = "fix the master address or the interfaces, if these fail; else ask the site whether "
    shown = f"{len(met)} of {size} ranks{cause}"
    return Verdict(check, FAIL, shown, todo + "its nodes may reach each other's ports")


def explain_missing(ranks: list[dict], asked: Asked, fact: str, kind: type = dict) -> str | None:
    """Say which rank did not come as far as `fact`; None when all did."""
    if len(ranks) < asked.world_size:
        return (
            f"only {len(ranks)} of {asked.world_size} ranks reported"
            if ranks
            else "no rank reported"
        )
    rank = next((rank for rank in ranks if not isinstance(rank.get(fact), kind)), None)
    if rank is None:
        return None
    why = rank.get("error") or (f"stopped in: {rank['in']}" if "in" in rank else "reason unknown")
    return f"rank {rank['rank']} on {rank['host']}: {why}"


def judge_sum(ranks: list[dict], asked: Asked) -> Verdict:
    """An all-reduce gave the right sum on every rank."""
    check = "all-reduce"
    stuck = [rank for rank in ranks if rank.get("in") == "all-reduce"]
    if stuck:
        message = stuck[0].get("error") or "it hung, or was killed"
        hosts = ", ".join(dict.fromkeys(rank["host"] for rank in stuck))
        return Verdict(check, FAIL, f"did not end on {hosts}: {message}", SEE_JOB)
    if missing := explain_missing(ranks, asked, "reduce"):
        return Verdict(check, NOT_RUN, missing, SEE_JOB)
    wrong = [rank for rank in ranks if rank["reduce"]["wrong"]]
    values = ranks[0]["reduce"]["values"]
    if not wrong:
        return Verdict(check, OK, f"the sum of {values} numbers is right on every rank")
    hosts = ", ".join(dict.fromkeys(rank["host"] for rank in wrong))
    found = f"{wrong[0]['reduce']['wrong']} of {values} numbers are wrong on {hosts}"
    return Verdict(check, FAIL, found, f"do not use results of {hosts}; tell the site")


def compute_rates(ranks: list[dict]) -> list[dict]:
    """Return the sweep with algbw and busbw in GB/s (10^9 bytes), as nccl-tests count them.

    algbw = bytes / time; busbw = algbw x 2 (n - 1) / n for n ranks: what each link must carry
    (nccl-tests, doc/PERFORMANCE.md).
    """
    sweep = ranks[0].get("sweep") if ranks else None
    if not isinstance(sweep, list) or ranks[0]["world_size"] < 2:
        return []
    size, rows = ranks[0]["world_size"], []
    for row in sweep:
        algbw = row["bytes"] / row["seconds"] / 1e9
        rows.append(row | {"algbw": algbw, "busbw": algbw * 2 * (size - 1) / size})
    return rows


def judge_speed(ranks: list[dict], asked: Asked) -> Verdict:
    """How fast an all-reduce is: the best rate of the sweep, and where half of it is reached."""
    check, size = "bandwidth", asked.world_size
    if missing := explain_missing(ranks, asked, "sweep", list):
        return Verdict(check, NOT_RUN, missing, SEE_JOB)
    if size == 1:
        return Verdict(check, OK, "one process: nothing to send")
    rows = compute_rates(ranks)
    best = max(rows, key=lambda row: row["busbw"])
    half = next(row for row in rows if row["busbw"] >= best["busbw"] / 2)
    found = (
        f"all-reduce of {show_bytes(best['bytes'])} in {show_time(best['seconds'])}: algbw "
        f"{best['algbw']:.3g} GB/s, busbw {best['busbw']:.3g} GB/s; half of it from "
        f"{show_bytes(half['bytes'])} on; {show_bytes(rows[0]['bytes'])} in "
        f"{show_time(rows[0]['seconds'])}"
    )
    if ranks[0].get("backend") == "nccl":
        if asked.nodes > 1 and best["busbw"] < SLOW_NET_GB_PER_S:
            todo = "slower than 10 Gbit Ethernet: choose the fast interface, see NCCL_SOCKET_IFNAME"
            return Verdict(check, WARN, found, todo)
        if half["bytes"] > BUCKET_MIB * 2**20:
            todo = f"DDP sends buckets of {BUCKET_MIB} MiB: try a larger one (--bucket-cap-mb)"
            return Verdict(check, WARN, found, todo)
    return Verdict(check, OK, found)


def format_sweep(ranks: list[dict]) -> list[str]:
    """The sweep as lines: payload, time, algbw and busbw; none where there was nothing to send."""
    rows = compute_rates(ranks)
    if not rows:
        return []
    size = ranks[0]["world_size"]
    lines = [f"all-reduce over {size} ranks:", "     payload        time  algbw GB/s  busbw GB/s"]
    return lines + [
        f"{show_bytes(row['bytes']):>12}{show_time(row['seconds']):>12}"
        f"{row['algbw']:>12.3g}{row['busbw']:>12.3g}"
        for row in rows
    ]


def show_bytes(number: int) -> str:
    """1024 -> `1 KiB`, 268435456 -> `256 MiB`."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit:
            return f"{number / unit:.0f} {name}"
    return f"{number} bytes"


def judge_hardware(found: dict, asked: Asked) -> Finding:
    """How a node's GPUs are linked, and its InfiniBand or RoCE cards."""
    if "error" in found:
        return NOT_RUN, found["error"], ""
    links = ", ".join(f"{count} x {kind}" for kind, count in found["gpu_links"].items())
    cards = [card for card in found["cards"] if "ACTIVE" in card["state"]]
    rates = ", ".join(f"{card['name']} {card['rate']}, {card['link']}" for card in cards)
    shown = f"GPU pairs: {links or 'unknown'}; cards: {rates or 'no InfiniBand or RoCE'}"
    down = [card["name"] for card in found["cards"] if card not in cards]
    if down and not cards and asked.nodes > 1:
        return WARN, f"{shown}; down: {', '.join(down)}", "no card is up: tell the site"
    return OK, shown, ""


def list_active_cards(tasks: list[dict]) -> list[str]:
    """The names of InfiniBand and RoCE cards that are up on any node."""
    cards = [card for task in tasks for card in (task.get("hardware") or {}).get("cards", [])]
    return list(dict.fromkeys(card["name"] for card in cards if "ACTIVE" in card["state"]))


def judge_transport(ranks: list[dict], asked: Asked, cards: list[str]) -> Verdict:
    """How data goes between the ranks, in NCCL's own words; cards: those that are up."""
    check = "transport"
    if missing := explain_missing(ranks, asked, "reduce"):
        return Verdict(check, NOT_RUN, missing, SEE_JOB)
    if asked.world_size == 1:
        return Verdict(check, OK, "one process: none")
    if ranks[0].get("backend") == "gloo":
        found = "gloo over TCP sockets: the ranks run on CPUs"
        if asked.accelerator == "none":
            return Verdict(check, OK, found)
        return Verdict(check, WARN, found, "meant for GPUs: see the line on GPUs")
    logs = [rank.get("nccl") or {} for rank in ranks]
    used = sorted({name for log in logs for name in log.get("transports", {})})
    networks = {log["network"] for log in logs if log.get("network")}
    version = next((f" (NCCL {log['version']})" for log in logs if log.get("version")), "")
    nets = [name for name in used if name.startswith("NET/")]
    if asked.nodes > 1 and not nets:
        nets = [f"NET/{network}" for network in sorted(networks)]
    if not used and not nets:
        todo = "look for 'via' in the nccl_rank files beside the job's results"
        return Verdict(check, NOT_RUN, f"NCCL's log names no transport{version}", todo)
    found = f"{', '.join(sorted({*used, *nets}))}{version}"
    if any(log.get("gdr") for log in logs):
        found += ", with GPUDirect RDMA"
    if "NET/Socket" in nets and asked.nodes > 1:
        there = f"{', '.join(cards)} is up but not used" if cards else "no fast card is up (ibstat)"
        todo = f"sockets are slow, and {there}: is its plug-in or module loaded, "
        return Verdict(check, WARN, found, todo + "NCCL_IB_DISABLE or NCCL_NET set?")
    if nets and asked.nodes == 1:
        todo = "GPUs of one node should use P2P or SHM: NCCL_P2P_DISABLE or NCCL_SHM_DISABLE set?"
        return Verdict(check, WARN, found, todo)
    return Verdict(check, OK, found)


def judge_clock(ranks: list[dict], asked: Asked) -> Verdict:
    """How far the nodes' clocks are apart, measured from rank 0."""
    check = "clocks"
    first = next((rank for rank in ranks if rank["rank"] == 0), {})
    rows = first.get("clock")
    if not isinstance(rows, list) or len(rows) < asked.nodes - 1:
        return Verdict(check, NOT_RUN, "not compared", SEE_JOB)
    worst = max(rows, key=lambda row: abs(row["offset_s"]))
    doubt = worst["uncertainty_s"]
    found = (
        f"{worst['host']} is {show_time(worst['offset_s'])} "
        f"{'ahead' if worst['offset_s'] >= 0 else 'behind'}, within {show_time(doubt)}"
    )
    if abs(worst["offset_s"]) - doubt > MOST_SKEW_S:
        todo = "times in logs of different nodes do not match: tell the site (NTP, chrony)"
        return Verdict(check, WARN, found, todo)
    if doubt > MOST_SKEW_S:
        return Verdict(check, WARN, found, "too slow a network to compare them: see the bandwidth")
    return Verdict(check, OK, found)


def show_time(seconds: float) -> str:
    """3.2 -> `3.2 s`, -0.00012 -> `0.12 ms`."""
    size = abs(seconds)
    return f"{size:.3g} s" if size >= 1 else f"{size * 1e3:.2g} ms"
