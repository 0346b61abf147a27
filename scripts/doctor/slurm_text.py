"""Slurm's notations: host lists, GRES, states, counts, limits, features.

Each function raises ValueError for text that Slurm does not print there. Formats: the manual
pages of sinfo and scontrol, and slurm.conf's under Gres and TRES.
"""

import itertools
import re

from common.slurm_time import format_time, parse_time

MOST_HOSTS = 65536  # of one host list: Slurm's own limit (MAX_SLURM_NODES is 64 * 1024)
NOTHING = {"", "(null)", "n/a", "none", "null"}
NO_LIMIT = {"unlimited", "infinite"}
Gpus = dict[str | None, int]  # GPU type -> how many on a node; None: Slurm does not name a type

# Node features that name a GPU: a100, v100-32g, mi250x, rtx_a6000, gh200, t4.
MODEL = re.compile(
    r"(nvidia[-_]|amd[-_]|tesla[-_]|gpu[-_]?)?"
    r"((rtx|gtx|quadro|titan)[-_]?\w*|(mi|gh|gb|a|b|h|k|p|v)[-_]?\d{2,4}\w*|(l|t)\d{1,2}s?)"
    r"(-\w{1,20}){0,3}",
    re.IGNORECASE,
)

SHORT_STATES = {
    "alloc": "allocated", "mix": "mixed", "comp": "completing", "drng": "draining",
    "resv": "reserved", "unk": "unknown", "plnd": "planned", "futr": "future", "err": "error",
    "failg": "failing", "pow_dn": "powering_down", "pow_up": "powering_up",
}  # fmt: skip
STATE_MARKS = {
    "*": "not_responding", "~": "powered_down", "#": "powering_up", "!": "power_down",
    "%": "powering_down", "$": "maintenance", "@": "reboot_requested", "^": "reboot_issued",
    "-": "planned",
}  # fmt: skip
UNUSABLE = {
    "down", "drain", "drained", "draining", "fail", "failing", "error", "inval", "unknown",
    "future", "not_responding", "npc", "perfctrs", "blocked",
}  # fmt: skip


def split_list(text: str) -> list[str]:
    """Split at commas outside brackets: `a[1,3],b(S:0,1)` has two parts."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[(") - (char in "])")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    if depth:
        raise ValueError(f"{text!r} is cut: a bracket is open")
    return [part.strip() for part in parts if part.strip()]


def expand_hosts(text: str) -> list[str]:
    """Expand `r[1-2]n[01-03],login1` into names, in order."""
    if text.strip().lower() in NOTHING:
        return []
    hosts = [host for part in split_list(text) for host in expand_name(part)]
    if len(hosts) > MOST_HOSTS:
        raise ValueError(f"{text!r} names more than {MOST_HOSTS} hosts")
    return hosts


def expand_name(part: str) -> list[str]:
    """Expand one name with any number of brackets."""
    pieces = re.split(r"\[([0-9,-]+)\]", part)
    if any(re.search(r"[^\w.-]", name) for name in pieces[::2]):
        raise ValueError(f"{part!r} is not a list of hosts")
    choices = [
        expand_numbers(piece) if position % 2 else [piece] for position, piece in enumerate(pieces)
    ]
    total = 1
    for numbers in choices:
        total *= len(numbers)
    if total > MOST_HOSTS:
        raise ValueError(f"{part!r} names more than {MOST_HOSTS} hosts")
    return ["".join(name) for name in itertools.product(*choices)]


def expand_numbers(text: str) -> list[str]:
    """Expand `01-03,7` into `01 02 03 7`."""
    numbers = []
    for span in text.split(","):
        found = re.fullmatch(r"([0-9]{1,15})(?:-([0-9]{1,15}))?", span)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not 0 <= high - low < MOST_HOSTS - len(numbers):
            raise ValueError(f"[{text}] is not a range of hosts")
        numbers += [f"{number:0{len(found[1])}}" for number in range(low, high + 1)]
    return numbers


def parse_number(text: str) -> int | None:
    """`64` -> 64; None for UNLIMITED, infinite, (null) and the like."""
    word = text.strip().lower()
    if word in NOTHING | NO_LIMIT:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", word):
        raise ValueError(f"{text!r} is not a whole number")
    return int(word)


def parse_limit(text: str) -> str | None:
    """A time limit as `HH:MM:SS`, `D-HH:MM:SS` or `unlimited`; None where there is none."""
    return None if text.strip().lower() in NOTHING else format_time(parse_time(text))


def parse_gpus(gres: str) -> Gpus:
    """Count the GPUs of a node's Gres: `gpu:a100:4(S:0-1),lscratch:3200` -> {"a100": 4}.

    Parts of one type (`gpu:a100:2(S:0),gpu:a100:2(S:1)`) add up; `gpu:(null):8(IDX:0-7)`,
    `gpu:8(S:0)` and `gpu::8` have no type.
    """
    found: Gpus = {}
    for item in split_list(gres.replace("(null)", "")):
        name, *words = re.sub(r"\([^)]*\)", "", item).removeprefix("gres/").strip().split(":")
        if name == "gres" and words:
            name, *words = words
        words = [word for word in words if word and word != "no_consume"]
        if name != "gpu":
            continue
        count = 1
        if words and re.fullmatch(r"[0-9]{1,6}", words[-1]):
            count = int(words.pop())
        kind = ":".join(words) or None
        if count:
            found[kind] = found.get(kind, 0) + count
    return found


def parse_tres_gpus(tres: str) -> Gpus:
    """Count the GPUs of a node's CfgTRES: `cpu=64,gres/gpu=4,gres/gpu:a100=4` -> {"a100": 4}.

    Types are believed only where they add up to the total: a site may track just one of them.
    """
    found: Gpus = {}
    for kind, count in re.findall(r"gres/gpu(?::([^=,\s]+))?=([0-9]{1,6})", tres):
        found[kind or None] = int(count)
    total = found.pop(None, None)
    if total is None or sum(found.values()) == total:
        return {kind: count for kind, count in found.items() if count}
    return {None: total} if total else {}


def is_slice(kind: str | None) -> bool:
    """Say whether a GPU type is a MIG slice (`1g.5gb`, `a100_3g.20gb`), no whole GPU."""
    return bool(kind and re.search(r"(^|[^a-z0-9])\d+g\.\d+gb", kind.lower()))


def split_features(text: str) -> tuple[str, ...]:
    """`a100,ib` -> ("a100", "ib"); `(null)` -> ()."""
    return () if text.lower() in NOTHING else tuple(filter(None, re.split(r"[,\s&]+", text)))


def name_models(features: tuple[str, ...]) -> tuple[str, ...]:
    """Pick the features that name a GPU: sites tell their models apart by these."""
    return tuple(sorted(name for name in features if MODEL.fullmatch(name)))


def parse_state(text: str) -> str | None:
    """`MIXED+DRAIN` -> `mixed+drain`, `drng$` -> `draining+maintenance`, `idle*` -> …"""
    words = []
    for part in text.strip().lower().split("+"):
        name = part.rstrip("".join(STATE_MARKS))
        words += [SHORT_STATES.get(name, name)] if name else []
        words += [STATE_MARKS[mark] for mark in part[len(name) :]]
    return "+".join(dict.fromkeys(words)) or None


def is_usable(state: str | None) -> bool:
    """Say whether a job can start on a node in this state, sooner or later."""
    return not UNUSABLE & set((state or "").split("+"))
