"""Read the words that Slurm prints: host lists, GRES, states, times, key=value records.

Nothing here raises on odd text: what cannot be read is None, or stays as it was.
Formats: the manual pages of sinfo and scontrol, and slurm.conf's under Gres and TRES.
"""

import itertools
import re

MOST_HOSTS = 65536  # of one host list: Slurm's own limit (MAX_SLURM_NODES is 64 * 1024)
NOTHING = {"", "(null)", "n/a", "none", "null"}
Gpus = dict[str | None, int]  # GPU type -> how many on a node; None: Slurm does not name a type

KEY = re.compile(r"(?:^|(?<=\s))([A-Za-z][A-Za-z0-9_]*)=")
# What people write; in each version of scontrol nothing that is needed follows on its line.
FREE_TEXT = {"Reason", "Comment", "Extra"}
RECORD = re.compile(r"(NodeName|PartitionName)=")

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
NO_USE = {
    "down", "drain", "drained", "draining", "fail", "failing", "error", "inval", "unknown",
    "future", "not_responding", "npc", "perfctrs", "blocked",
}  # fmt: skip


def split_lines(text: str) -> list[str]:
    """Split at line ends of any system, and at nothing else."""
    return re.split(r"\r\n|\n|\r", text)


def split_list(text: str) -> list[str]:
    """Split at commas that stand outside of brackets: `a[1,3],b(S:0,1)` has two parts."""
    parts, depth = [""], 0
    for char in text:
        depth = max(0, depth + (char in "[(") - (char in "])"))
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def expand_hosts(text: str) -> list[str]:
    """Expand `r[1-2]n[01-03],login1` into names, in order; what is no host list stays as it is."""
    if text.strip().lower() in NOTHING:
        return []
    return [host for part in split_list(text) for host in expand_one(part)][:MOST_HOSTS]


def expand_one(part: str) -> list[str]:
    """Expand one name with brackets; `[part]` when it is cut off or too large."""
    pieces = re.split(r"\[([0-9,-]+)\]", part)
    choices, total = [], 1
    for position, piece in enumerate(pieces):
        numbers = expand_numbers(piece) if position % 2 else [piece]
        total *= len(numbers)
        if not 0 < total <= MOST_HOSTS:
            return [part]
        choices.append(numbers)
    return ["".join(name) for name in itertools.product(*choices)]


def expand_numbers(text: str) -> list[str]:
    """Expand `01-03,7` into `01 02 03 7`; an empty list when it is malformed or too large."""
    numbers = []
    for span in text.split(","):
        found = re.fullmatch(r"([0-9]{1,15})(?:-([0-9]{1,15}))?", span)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not 0 <= high - low < MOST_HOSTS - len(numbers):
            return []
        numbers += [f"{number:0{len(found[1])}}" for number in range(low, high + 1)]
    return numbers


def parse_number(text: str | None) -> int | None:
    """`64` -> 64, `64+` (sinfo's "at least") -> 64; None for UNLIMITED, (null) and the like."""
    found = re.match(r"\s*([0-9]{1,15})(\.[0-9]+)?\+?\s*$", text or "")
    return int(found[1]) if found else None


def parse_gpus(gres: str) -> Gpus:
    """Count the GPUs of a node's Gres: `gpu:a100:4(S:0-1),lscratch:3200` -> {"a100": 4}.

    Parts of one type (`gpu:a100:2(S:0),gpu:a100:2(S:1)`) add up; `gpu:(null):8(IDX:0-7)`,
    `gpu:8(S:0)` and `gpu::8` have no type.
    """
    found: Gpus = {}
    for item in split_list(gres.replace("(null)", "")):
        name, *words = re.sub(r"\([^)]*\)?", "", item).removeprefix("gres/").strip().split(":")
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
    """Say whether a job can be started on a node in this state, sooner or later."""
    return not NO_USE & set((state or "").split("+"))


def parse_time(text: str | None) -> str | None:
    """A time limit as `HH:MM:SS` or `D-HH:MM:SS`, or `unlimited`; None when there is none."""
    word = (text or "").strip().lower()
    if word in {"unlimited", "infinite"}:
        return "unlimited"
    number = "([0-9]{1,5})"
    found = re.fullmatch(f"(?:{number}-)?{number}(?::{number})?(?::{number})?", word)
    if not found:
        return None
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is None and len(numbers) < 3:  # MM or MM:SS; with days it is HH or HH:MM
        numbers.insert(0, 0)
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return format_time((int(days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds)


def format_time(seconds: int) -> str:
    """90061 -> `1-01:01:01`."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def count_seconds(limit: str | None) -> float:
    """Seconds of what parse_time returned; infinite when unlimited or not known."""
    if limit is None or limit == "unlimited":
        return float("inf")
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = map(int, clock.split(":"))
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def parse_records(text: str, first: str) -> list[dict[str, str]]:
    """Read `scontrol show`'s records that start with the key `first`, on one line or several."""
    records: list[dict[str, str]] = []
    current: dict[str, str] = {}  # before the first record: errors and greetings, dropped
    for line in split_lines(text):
        line = line.strip()
        if start := RECORD.match(line):
            current = {}
            if start[1] == first:
                records.append(current)
        for key, value in split_pairs(line):
            current.setdefault(key, value)
    return records


def split_pairs(line: str) -> list[tuple[str, str]]:
    """Split `OS=Linux 6.1 RealMemory=64` at its keys: values may hold spaces."""
    keys = list(KEY.finditer(line))
    pairs = []
    for found, following in itertools.zip_longest(keys, keys[1:]):
        if found[1] in FREE_TEXT:
            return [*pairs, (found[1], line[found.end() :].strip())]
        end = following.start() if following else len(line)
        pairs.append((found[1], line[found.end() : end].strip()))
    return pairs


def parse_config(text: str) -> dict[str, str]:
    """Read the `Key = Value` lines of `scontrol show config`, keys in small letters."""
    found = (re.match(r"\s*([A-Za-z]\w*)\s*=\s?(.*?)\s*$", line) for line in split_lines(text))
    return {pair[1].lower(): pair[2] for pair in reversed([pair for pair in found if pair])}
