"""PyTorch's Flight Recorder: which collectives this rank has begun, and for which one it waits.

It numbers the collectives of each group. Compared between ranks the numbers say which one a rank
that hangs never reached; heartbeats without them say only where its Python code is. NCCL's are
recorded from PyTorch 2.5 on, gloo's by newer ones. What is used of PyTorch's private functions is
in this file alone; where they are missing, nothing is read.
"""

import json
import os
from collections.abc import Callable

ENTRIES = 16  # the last ones; to read them takes about a millisecond
MOST_ENTRIES = 256  # that are read, if somebody has asked PyTorch for more


def switch_on() -> Callable[[], dict]:
    """Let PyTorch record, unless its variable says otherwise; returns what reads the record.

    Before the process group exists: PyTorch reads the variable once.
    """
    from torch._C import _distributed_c10d as c10d

    dump, variable = getattr(c10d, "_dump_fr_trace_json", None), "TORCH_FR_BUFFER_SIZE"
    if dump is None:
        dump, variable = (
            getattr(c10d, "_dump_nccl_trace_json", None),
            "TORCH_NCCL_TRACE_BUFFER_SIZE",
        )
    size = os.environ.get(variable) or os.environ.get("TORCH_NCCL_TRACE_BUFFER_SIZE")
    if size is None:
        size = os.environ[variable] = str(ENTRIES)
    if dump is None or not size.isdigit() or not 0 < int(size) <= MOST_ENTRIES:
        return dict

    def read() -> dict:
        try:
            return {"collectives": sum_up(json.loads(dump(True, False)).get("entries", []))}
        except (RuntimeError, KeyError, TypeError, ValueError):  # another PyTorch's form
            return {}

    return read


def sum_up(entries: list[dict]) -> dict[str, dict]:
    """Return for each group how many collectives were begun, and the first that has not ended.

    An entry's `state` stays "scheduled" over gloo: `retired` tells that it has ended.
    """
    groups: dict[str, dict] = {}
    for entry in entries:
        if entry.get("is_p2p") or "collective_seq_id" not in entry:
            continue
        backend, _, name = entry["profiling_name"].partition(":")
        group = groups.setdefault(f"{backend} group {entry['pg_id']}", {"begun": 0, "waits": None})
        number = entry["collective_seq_id"]
        group["begun"] = max(group["begun"], number)
        if not entry["retired"] and group["waits"] is None:
            tensors = zip(entry["input_dtypes"], entry["input_sizes"], strict=False)
            sizes = [f"{kind.lower()}{size}" for kind, size in tensors]
            what = f"{name} of {', '.join(sizes[:2]) or 'nothing'}"
            group["waits"] = {"number": number, "what": what}
    return groups
