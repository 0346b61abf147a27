"""Judge what all ranks show together: where they meet, sums, speed, transport and clocks.

Pure functions from what preflight.py wrote to verdicts.
"""

import ipaddress

from doctor.preflight_verdict import (
    FAIL,
    NOT_RUN,
    OK,
    SEE_JOB,
    WARN,
    Asked,
    Finding,
    Verdict,
    judge_fact,
    merge,
)

SLOW_NET_GB_PER_S = 1.0  # less than 10 Gbit Ethernet: training on GPUs would wait for it
MOST_SKEW_S = 1.0  # beyond it log lines and samples of different nodes cannot be matched


def judge_group(tasks: list[dict], ranks: list[dict], asked: Asked) -> list[Verdict]:
    """Judge the network's names on each node, and what the ranks measured together."""
    verdicts = [judge_interfaces(tasks, asked), judge_meeting(ranks, asked)]
    if asked.nodes > 1:
        verdicts.insert(0, judge_master(tasks, asked))
    verdicts += [judge_sum(ranks, asked), judge_speed(ranks, asked)]
    verdicts.append(judge_transport(ranks, asked))
    if asked.nodes > 1:
        verdicts.append(judge_clock(ranks, asked))
    return verdicts


# ---- Names, on each node ---------------------------------------------------------------


def judge_master(tasks: list[dict], asked: Asked) -> Verdict:
    """MASTER_ADDR leads every node to the first one."""
    rows = [(task["host"], judge_fact(task, "master", judge_address, asked)) for task in tasks]
    return merge("master address", rows, asked.nodes)


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
    rows = [(task["host"], judge_fact(task, "interfaces", judge_chosen, asked)) for task in tasks]
    return merge("interfaces", rows, asked.nodes)


def judge_chosen(found: dict, _: Asked) -> Finding:
    """What the environment chooses, on one node."""
    if "error" in found:
        return NOT_RUN, found["error"], ""
    if not found["chosen"]:
        return OK, "none is chosen: NCCL and gloo look for one", ""
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


# ---- All ranks -------------------------------------------------------------------------


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
    words = (failed.get("nccl") or {}).get("warning") or failed["error"] if failed else ""
    told = f"; rank {failed['rank']} on {failed['host']}: {words}" if failed else ""
    todo = "mend the master address or the interfaces, if these fail; else ask the site whether "
    shown = f"{len(met)} of {size} ranks{told}"
    return Verdict(check, FAIL, shown, todo + "its nodes may reach each other's ports")


def first_lacking(ranks: list[dict], asked: Asked, fact: str) -> str | None:
    """Say which rank did not come as far as `fact`; None when all did."""
    if len(ranks) < asked.world_size:
        return f"only {len(ranks)} of {asked.world_size} ranks told" if ranks else "no rank told"
    rank = next((rank for rank in ranks if not isinstance(rank.get(fact), dict)), None)
    if rank is None:
        return None
    why = rank.get("error") or (f"stopped in: {rank['in']}" if "in" in rank else "no reason known")
    return f"rank {rank['rank']} on {rank['host']}: {why}"


def judge_sum(ranks: list[dict], asked: Asked) -> Verdict:
    """An all-reduce gave the right sum on every rank."""
    check = "all-reduce"
    stuck = [rank for rank in ranks if rank.get("in") == "all-reduce"]
    if stuck:
        words = stuck[0].get("error") or "it hung, or was killed"
        hosts = ", ".join(dict.fromkeys(rank["host"] for rank in stuck))
        return Verdict(check, FAIL, f"did not end on {hosts}: {words}", SEE_JOB)
    if lacking := first_lacking(ranks, asked, "reduce"):
        return Verdict(check, NOT_RUN, lacking, SEE_JOB)
    wrong = [rank for rank in ranks if rank["reduce"]["wrong"]]
    values = ranks[0]["reduce"]["values"]
    if not wrong:
        return Verdict(check, OK, f"the sum of {values} numbers is right on every rank")
    hosts = ", ".join(dict.fromkeys(rank["host"] for rank in wrong))
    found = f"{wrong[0]['reduce']['wrong']} of {values} numbers are wrong on {hosts}"
    return Verdict(check, FAIL, found, f"use no result of {hosts}; tell the site")


def judge_speed(ranks: list[dict], asked: Asked) -> Verdict:
    """How fast an all-reduce is: bytes / time, and per link as nccl-tests count it.

    busbw = algbw x 2 (n - 1) / n for n ranks (nccl-tests, doc/PERFORMANCE.md).
    """
    check, size = "bandwidth", asked.world_size
    if lacking := first_lacking(ranks, asked, "reduce"):
        return Verdict(check, NOT_RUN, lacking, SEE_JOB)
    if size == 1:
        return Verdict(check, OK, "one process: nothing to send")
    measured = ranks[0]["reduce"]
    algbw = measured["bytes"] / measured["seconds"] / 1e9
    busbw = algbw * 2 * (size - 1) / size
    found = (
        f"all-reduce of {measured['bytes'] / 2**20:.0f} MiB in "
        f"{measured['seconds'] * 1e3:.3g} ms: algbw {algbw:.3g} GB/s, busbw {busbw:.3g} GB/s"
    )
    if asked.nodes > 1 and ranks[0].get("backend") == "nccl" and busbw < SLOW_NET_GB_PER_S:
        todo = "slower than 10 Gbit Ethernet: choose the fast interface, see NCCL_SOCKET_IFNAME"
        return Verdict(check, WARN, found, todo)
    return Verdict(check, OK, found)


def judge_transport(ranks: list[dict], asked: Asked) -> Verdict:
    """How data goes between the ranks, in NCCL's own words."""
    check = "transport"
    if lacking := first_lacking(ranks, asked, "reduce"):
        return Verdict(check, NOT_RUN, lacking, SEE_JOB)
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
        todo = "sockets are slow: is InfiniBand there (ibstat), its plug-in or module loaded, "
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
        return Verdict(check, WARN, found, "too slow a network to tell: see the bandwidth")
    return Verdict(check, OK, found)


def show_time(seconds: float) -> str:
    """3.2 -> `3.2 s`, -0.00012 -> `0.12 ms`."""
    size = abs(seconds)
    return f"{size:.3g} s" if size >= 1 else f"{size * 1e3:.2g} ms"
