"""Let the ranks of a job meet, add up and compare their clocks, for preflight.py.

PyTorch is imported late: where that fails, the failure is what there is to report.
"""

import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from training.files import write_json, write_text
from training.preflight_node import MIB, describe_error


def look_at_group(facts: dict, path: Path, timeout_s: int) -> None:
    """Meet the other ranks and measure; ends the process with status 1 when that fails."""
    nccl_log = path.with_name(f"nccl_rank{facts['rank']}.log")
    # INFO names the transports; the profile's own settings choose them and stay as they are.
    os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(nccl_log)}
    os.environ.pop("NCCL_DEBUG_SUBSYS", None)
    facts["in"] = "torch"
    write_json(path, facts)
    try:
        from training.launch import launch  # imports PyTorch
    except Exception as error:
        write_json(path, facts | {"error": describe_error(error)})
        raise

    def measure() -> None:
        try:
            measure_group(facts, path, timeout_s)
        except Exception as error:
            facts["error"] = describe_error(error)
            raise
        finally:
            facts["nccl"] = read_nccl_log(nccl_log)
            write_json(path, facts)

    launch(measure)
    if facts["rank"] == 0:  # by it the job's summary knows that all went well
        write_text(path.with_name("RUN_COMPLETE.txt"), f"{time.time():.0f}\n")


def measure_group(facts: dict, path: Path, timeout_s: int) -> None:
    """Join the process group as train.py does; sum, time the sum, compare clocks."""
    import torch
    import torch.distributed as dist

    device, facts["backend"] = torch.device("cpu"), "gloo"
    if torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", 0)) if torch.cuda.device_count() > 1 else 0
        device, facts["backend"] = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)
    facts["in"] = "meeting"
    write_json(path, facts)
    # NCCL connects only with the first collective; waiting for it so, a rank that nobody answers
    # raises an error instead of being aborted.
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    dist.init_process_group(facts["backend"], timeout=timedelta(seconds=timeout_s))
    dist.all_reduce(torch.zeros(1, device=device))
    facts["in"] = "all-reduce"
    write_json(path, facts)
    facts["reduce"] = check_sum(device) | time_reduce(device)
    facts["in"] = "clock"
    facts["clock"] = compare_clocks(facts["host"], device)
    del facts["in"]
    dist.barrier()
    dist.destroy_process_group()


def check_sum(device) -> dict:
    """All-reduce known numbers; the sums are below 2**24, so float32 has them exactly."""
    import torch
    import torch.distributed as dist

    world, count = dist.get_world_size(), 2**18
    pattern = torch.arange(count, device=device, dtype=torch.float32) % 97
    numbers = pattern * (dist.get_rank() % 16 + 1)
    dist.all_reduce(numbers)
    factor = sum(rank % 16 + 1 for rank in range(world))
    return {"values": count, "wrong": int((numbers != pattern * factor).sum())}


def time_reduce(device) -> dict:
    """Time an all-reduce, in seconds of the slowest rank, the mean of several."""
    import torch
    import torch.distributed as dist

    on_gpu = device.type == "cuda"
    size, repeats = (256 * MIB, 10) if on_gpu else (8 * MIB, 4)
    block = torch.ones(size // 4, device=device)

    def reduce(times: int) -> float:
        dist.barrier()
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            dist.all_reduce(block, op=dist.ReduceOp.MAX)  # sums of ones would grow
        if on_gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / times

    reduce(2)  # connections and buffers are made in the first
    seconds = torch.tensor(reduce(repeats), dtype=torch.float64, device=device)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return {"bytes": size, "seconds": seconds.item()}


def compare_clocks(host: str, device, now: Callable[[], float] = time.time) -> list[dict]:
    """Compare rank 0's clock with that of each other node; all ranks must call this.

    Returns, on rank 0, a row a node: `offset_s`, how far it is ahead, within `uncertainty_s`.
    """
    import torch
    import torch.distributed as dist

    hosts: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(hosts, host)
    rank, rows = dist.get_rank(), []
    for other in sorted({hosts.index(name) for name in hosts} - {0}):
        told = torch.zeros(1, dtype=torch.float64, device=device)
        exchanges = []
        for _ in range(12):  # the first is slow; the fastest counts
            sent = now()
            if rank == 0:
                dist.send(told, other)
                dist.recv(told, other)
                exchanges.append((sent, told.item(), now()))
            elif rank == other:
                dist.recv(told, 0)
                told.item()  # a GPU has received it only now
                dist.send(told.fill_(now()), 0)
        if rank == 0:
            rows.append({"host": hosts[other]} | find_offset(exchanges))
    return rows


def find_offset(exchanges: list[tuple[float, float, float]]) -> dict:
    """Find a clock's offset from exchanges (sent, the other's time, received), in seconds.

    The other's time was read somewhere between sent and received: that half-width is the
    uncertainty, and the fastest exchange has the smallest (as NTP has it, RFC 5905).
    """
    sent, theirs, received = min(exchanges, key=lambda times: times[2] - times[0])
    return {"offset_s": theirs - (sent + received) / 2, "uncertainty_s": (received - sent) / 2}


def read_nccl_log(path: Path) -> dict | None:
    """Read which transports NCCL chose, and its last warning; None when it wrote nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return parse_nccl(text)


def parse_nccl(text: str) -> dict:
    """`Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA` -> {"transports": {"NET/IB": …}}.

    The numbers count the channels of each transport; `gdr` those with GPUDirect RDMA.
    """
    transports: dict[str, int] = {}
    gdr = 0
    for way in re.findall(r"NCCL INFO Channel .* via ((?:P2P|SHM|NET|COLLNET)\S*.*)", text):
        kind = re.match(r"NET/[^/\n]+|[A-Z0-9]+", way)[0].strip()
        transports[kind] = transports.get(kind, 0) + 1
        gdr += "/GDRDMA" in way
    network = re.findall(r"NCCL INFO Using network (\S.*)", text)
    version = re.search(r"(?:NCCL|RCCL) version\s*:?\s*(\d[\w.+-]*)", text)
    warnings = re.findall(r"NCCL WARN (.+)", text)
    return {
        "version": version[1] if version else None,
        "network": network[-1].strip() if network else None,
        "transports": transports,
        "gdr": gdr,
        "warning": warnings[-1].strip() if warnings else None,
    }
