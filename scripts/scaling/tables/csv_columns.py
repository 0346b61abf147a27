"""Which column of somebody's CSV holds what: by its name, or as the user says."""

import re
from dataclasses import dataclass
from fractions import Fraction

from common.console import shorten
from common.errors import UserError
from scaling.tables.csv_numbers import TIME_UNITS_S

# Role -> what a header may say, as words without case, signs or units; the first found counts.
_NAMES = {
    "gpus": (
        "gpus", "gpu", "num gpus", "n gpus", "ngpus", "number of gpus", "gpu count", "total gpus",
        "no of gpus", "world size", "accelerators", "devices", "num devices", "ranks", "processes",
        "workers", "gcds", "tpus", "chips", "nodes x gpus", "nodes x gpus per node",
    ),
    "nodes": ("nodes", "num nodes", "n nodes", "nnodes", "number of nodes", "node count", "hosts"),
    "gpus_per_node": (
        "gpus per node", "gpu per node", "gpus node", "gpus x node", "ppn", "ngpus per node",
        "devices per node", "processes per node", "ranks per node", "tasks per node",
    ),
    "throughput": (
        "throughput", "global throughput", "tokens s", "tokens sec", "tokens per s",
        "tokens per sec", "tokens per second", "tokens sec global", "samples s", "samples sec",
        "samples per s", "samples per sec", "samples per second", "images s", "images sec",
        "images per sec", "images per second", "img s", "img sec", "imgs s", "imgs sec",
        "sequences per second", "seq s", "mean throughput", "throughput per s", "examples per sec",
        "examples s", "items s", "tok s", "tok sec", "toks s", "toks sec",
    ),
    "time": (
        "wall time", "walltime", "time", "wall s", "total time", "training time", "elapsed",
        "elapsed time", "runtime", "run time", "duration", "wall clock", "wall clock time",
        "epoch time", "time per epoch", "seconds", "total wall time", "train time",
        "time to solution", "execution time",
    ),
    "speedup": ("speedup", "speed up", "scaling", "scaling factor", "throughput scaling"),
    "efficiency": ("efficiency", "scaling efficiency", "parallel efficiency", "eff"),
}  # fmt: skip

_THOUSANDS = re.compile(
    r"(?<![A-Za-z])([kKM]|[Tt]housand|[Mm]illion)[ _]?"
    r"(?=tok|im|sample|seq|example|item|/s)"
)


@dataclass(frozen=True)
class Columns:
    """Header of each role, None where there is none.

    time_unit_s: seconds in one unit of time; throughput_factor: 1000 under `ktokens/s`.
    """

    gpus: str | None
    nodes: str | None
    gpus_per_node: str | None
    throughput: str | None
    time: str | None
    speedup: str | None
    efficiency: str | None
    time_unit_s: Fraction = Fraction(1)
    throughput_factor: int = 1
    unit: str | None = None


def find_columns(headers: list[str], given: dict[str, str | None], where: str) -> Columns:
    """Return the columns of a table: those given by name, the others guessed.

    A throughput or time that is given leaves the other one out. Raises UserError for a
    name that is not there, and when GPUs or both measures cannot be found.
    """
    for role, name in given.items():
        if name is not None and name not in headers:
            raise UserError(f"{where}: no column {name!r} for --{role}; {_list(headers)}")
    found = {role: given.get(role) or _guess(headers, role) for role in _NAMES}
    for role, other in (("throughput", "time"), ("time", "throughput")):
        if given.get(role) and not given.get(other):
            found[other] = None
    if found["gpus"] is None and not (found["nodes"] and found["gpus_per_node"]):
        raise UserError(
            f"{where}: no column of GPUs is found, nor nodes with GPUs per node; {_list(headers)}; "
            "name it with --gpus COL"
        )
    if found["throughput"] is None and found["time"] is None:
        raise UserError(
            f"{where}: no column of throughput or time is found; {_list(headers)}; name one with "
            "--throughput COL or --time COL"
        )
    return Columns(
        **found,
        time_unit_s=find_time_unit(found["time"]),
        throughput_factor=find_factor(found["throughput"]),
        unit=find_unit(found["throughput"]),
    )


def _list(headers: list[str]) -> str:
    return shorten("its columns are " + ", ".join(headers), 300)


def _guess(headers: list[str], role: str) -> str | None:
    """Return the header that a role's names fit; the earliest name in the list wins."""
    plain = {}
    for header in headers:
        for form in _simplify(header):
            plain.setdefault(form, header)
    return next((plain[name] for name in _NAMES[role] if name in plain), None)


def _simplify(header: str) -> list[str]:
    """Return a header as words: with its bracketed unit, without it, without a last unit."""
    header = _THOUSANDS.sub("", header)
    header = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", header)  # trainTime
    forms = []
    for text in (header, re.sub(r"[(\[{].*?[)\]}]", " ", header)):
        words = re.findall(r"[a-z]+", text.lower().replace("#", " num "))
        words = [word for word in words if word != "avg"]
        forms.append(" ".join(words))
        while words and words[-1] in ("pct", "percent", "x", *TIME_UNITS_S):
            words = words[:-1]
            forms.append(" ".join(words))
        if " vs " in f" {' '.join(words)} ":  # `Speedup vs 1 GPU`
            forms.append(" ".join(words[: words.index("vs")]))
    return forms


def find_time_unit(header: str | None) -> Fraction:
    """Return the seconds in the unit that a time's header names; seconds when it names none."""
    if header is None:
        return Fraction(1)
    bracketed = re.findall(r"[(\[{]\s*([A-Za-z]+)\.?\s*[)\]}]", header)
    last = re.findall(r"[A-Za-z]+", header)[-1:]
    return next((TIME_UNITS_S[w.lower()] for w in (*bracketed, *last) if w.lower() in TIME_UNITS_S),
                Fraction(1))  # fmt: skip


def find_factor(header: str | None) -> int:
    """Return 1000 for a header like `ktokens/s`, a million for `M tokens/s`, else 1."""
    match = _THOUSANDS.search(header or "")
    return 1 if match is None else 1000 if match[1].lower() in ("k", "thousand") else 1000**2


def find_unit(header: str | None) -> str | None:
    """Return tokens/s, img/s or samples/s where a throughput's header says what it counts."""
    words = _THOUSANDS.sub("", header or "").lower()
    for part, unit in (("tok", "tokens/s"), ("im", "img/s"), ("sample", "samples/s")):
        if re.search(rf"\b{part}|_{part}", words):
            return unit
    return None
