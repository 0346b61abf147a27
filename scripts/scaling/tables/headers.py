"""What the words of a table's header say: which column has GPUs, throughput, time, ratios."""

import re
from collections.abc import Iterable
from functools import lru_cache

from scaling.tables.numbers import TIME_UNITS_S


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DEVICES = _words(
    "gpu gpus device devices accelerator accelerators chip chips gcd gcds tpu tpus xpu xpus rank "
    "ranks process processes procs worker workers card cards ngpu ngpus world"
)
NODES = _words("node nodes nnode nnodes host hosts server servers machine machines")
NAMES = DEVICES | NODES
_FILLERS = _words(
    "num number nr no n count the of in used all total a avg average mean measured train training "
    "global overall aggregate aggregated size job system end to across"
)
_NOUNS = {
    "tokens/s": _words("tok toks token tokens t"),
    "img/s": _words("im ims img imgs image images"),
    "samples/s": _words("sample samples seq seqs sequence sequences example examples item items"),
}
_NOUN_UNITS = {word: unit for unit, words in _NOUNS.items() for word in words}
_MORE_NOUNS = _words(
    "ns frames frame words word atoms cells points flop tflop req reqs request requests query "
    "queries"
)
_RATES = _words(
    "throughput speed tps ips sps fps qps rps gbps mbps gbs flops tflops tflop pflops performance "
    "rate"
)
_STEPS = _words("step steps iteration iterations iter iters it batch batches")
_TIMES = _words("time walltime wallclock elapsed runtime duration")
_TIMED = _words("wall clock run epoch epochs solution execution convergence")  # `epoch_s`
_EFFICIENCY = _words("efficiency eff scaling parallel weak strong pct percent")
_SPEEDUP = _words("speedup speed up scaling factor x pct percent throughput relative acceleration")
_THOUSANDS = re.compile(
    r"(?<![A-Za-z])([kKM]|[Tt]housands?|[Mm]illions?|[x×]? ?10\^?[36³⁶]|[x×] ?1,?000)[ _]?"
    r"(?=of |tok|im|sample|seq|example|item|/s|\s*[)\]])"
)
_GPU_TYPE = re.compile(
    r"\b(?:nvidia|amd|intel|tesla|[abhlpvt]\d{1,3}s?|mi\d{3}[a-z]?s?|g[bh]200s?|rtx ?\w*)\b"
)
MEASURES = ("throughput", "time", "step_time", "step_rate", "speedup", "efficiency")
# A column that varies and has one of the first words parts series; one of the second is a name of
# the run; of the third, a result; of the fourth, part of the scale when it goes with the GPUs.
SETTINGS = _words(
    "model seq sequence length len context layer layers hidden params parameters precision dtype "
    "stage zero tp pp image resolution input dataset optimizer strategy framework"
)
RUN_NAMES = _words(
    "job jobid run id date day timestamp note notes comment comments remark remarks file log path "
    "seed trial repeat repetition commit hash row user nodelist hostlist hostname hostnames "
    "source link"
)
RESULTS = _words(
    "loss acc accuracy perplexity ppl bleu score f1 memory mem mib gib gb vram util utilization "
    "utilisation power energy watt watts kwh temperature mfu hfu flops tflops tflop cost price usd "
    "std stdev stddev deviation err error ci var variance min max percentile peak overhead "
    "ideal expected hours gain improvement reduction latency comm communication wait idle"
)
SCALED = _words(
    "batch batches minibatch bs gbs gpu gpus device devices cpu cpus core cores task tasks node "
    "nodes rank ranks process processes thread threads worker workers dp data parallel socket "
    "sockets step steps iteration iterations sample samples tokens"
)
# What a run did in its time: of runs of one time per scale it must be the same. With a larger batch
# a run may have done more steps' work or had fewer steps; an epoch's time is of the same samples.
WORK = _words("sample samples tokens step steps iteration iterations data batch batches bs gbs")


@lru_cache(1000)
def split_words(header: str) -> tuple[str, ...]:
    """Return a header's words: `tokens/s/GPU` is tokens per s per gpu, `#GPUs` num gpus."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", _THOUSANDS.sub("", header))  # trainTime
    text = re.sub(r"\b[pP]\d\d\b", "percentile", text)
    for mark, word in (("#", " num "), ("%", " pct "), ("/", " per "), ("×", " x "), ("µ", "u")):
        text = text.replace(mark, word)
    words = re.findall(r"[a-z]+|\d+", _GPU_TYPE.sub(" ", text.lower()))
    for end in ("vs", "versus", "over", "relative", "wrt"):  # `Speedup vs 1 GPU`
        if end in words[1:]:
            words = words[: words.index(end)]
    return tuple(words)


@lru_cache(1000)
def find_role(header: str) -> tuple[str, str]:
    """Return (role, per): what a header says that its column is; ("", "") for anything else.

    role: gpus, nodes, gpus_per_node, throughput, time, step_time, step_rate, speedup or
    efficiency; per: gpu or node for a throughput of each, ? where `GPU throughput` may be either;
    turned for GPUs x nodes.
    """
    words = split_words(header)
    bare = split_words(re.sub(r"[(\[{].*?[)\]}]", " ", header))
    inside = tuple(word for word in words if word not in bare)
    first, *rest = _split_at_per(words)
    core = set(first) - _FILLERS
    if set(rest[0] if rest else ()) & NODES and len(rest) == 1 and core and core <= DEVICES:
        return "gpus_per_node", ""
    if words in (("ppn",), ("gpn",)) or (core & DEVICES and core <= {"gpu", "gpus", "node"} and (
        "node" in core and "x" not in words
    )):  # fmt: skip
        return "gpus_per_node", ""
    whole = set(words) - _FILLERS - {"per", "x"}
    if {"x"} & set(words) and whole & NODES and whole <= NODES | DEVICES:
        first = next(word for word in words if word in whole)
        return "gpus", "" if first in NODES else "turned"  # `Nodes x GPUs`, `GPUs x nodes`
    if words and set(words) <= _FILLERS and _GPU_TYPE.search(header.lower()):
        return "gpus", ""  # `No. of A100s`
    for role, known in (("gpus", DEVICES), ("nodes", NODES)):
        if any(form and set(form) - _FILLERS and set(form) - _FILLERS <= known
               for form in (words, bare)):  # fmt: skip
            return role, ""
    core = set(bare) - _FILLERS
    if core & {"efficiency", "eff"} and core <= _EFFICIENCY:
        return "efficiency", ""
    if core <= _SPEEDUP and (
        core & {"speedup", "scaling", "acceleration"} or {"speed", "up"} <= core
    ):
        return "speedup", ""
    return _find_measure(words, bare, inside)


def _split_at_per(words: Iterable[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "per":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _find_measure(words: tuple, bare: tuple, inside: tuple) -> tuple[str, str]:
    """Return the role and the `per` of a header that names a throughput or a time."""
    left = set(words) - _FILLERS - {"per"}
    behind = {word for part in _split_at_per(words)[1:] for word in part}
    kinds = (("gpu", DEVICES & behind), ("node", NODES & behind), ("?", DEVICES | NODES))
    per = next((name for name, known in kinds if left & known), "")
    core = [word for word in words if word in left - DEVICES - NODES]
    units = {word for word in core if word in TIME_UNITS_S}
    nouns = {word for word in core if word in _NOUN_UNITS or word in _MORE_NOUNS}
    others = set(core) - units - nouns
    if others & _STEPS and others <= _STEPS | _TIMES and (units or others & _TIMES):
        is_rate = core[0] in _STEPS and not others & _TIMES and units <= set(words[-1:])
        return "step_rate" if is_rate and "per" in words else "step_time", ""
    if others <= _RATES and (others or (units and core[0] in nouns)):
        return "throughput", per
    if inside and set(bare) - _FILLERS and set(bare) - _FILLERS - {"per"} <= _RATES:
        return "throughput", per  # `Throughput (ns/day)`: any unit may stand in brackets
    is_time = others & _TIMES or (units and (others or len(core) == 1))
    if is_time and others <= _TIMES | _TIMED | {"hh", "mm", "ss"} and not nouns and not per:
        return "time", ""
    return "", ""


def find_unit(header: str) -> str:
    """Return the unit of a throughput's header as it stands there: tokens/s, ns/day, or ''."""
    bracket = re.search(r"[(\[{](.*?)[)\]}]", header)
    text = bracket[1] if bracket else header
    if bracket and not find_unit(text):
        bracket, text = None, header.replace(bracket[0], " ")
    words = [word for word in split_words(text) if word not in _FILLERS]
    noun = next((word for word in words if word in _NOUN_UNITS), None)
    has_second = set(words) & {"s", "sec", "secs", "second", "seconds"}
    if noun and has_second:
        return _NOUN_UNITS[noun]
    if "per" in words and has_second and not bracket and words[0] in _RATES:
        return ""  # throughput_per_s: of what it does not say
    left = [word for word in words if word not in DEVICES | {"throughput", "pct"}]
    if not left or (not bracket and not ({"per"} & set(words) or left[0] in _RATES)):
        return ""
    text = re.sub(r"(?i)\s*(?:/|per[ _-])\s*(?:gpu|device|gcd|node)s?\b", "", text)
    text = re.sub(r"(?i)\bthroughput\b[ _]*", "", text)
    return _THOUSANDS.sub("", f"({text})").strip("() _:,")


def find_factor(header: str) -> int:
    """Return what a header multiplies its figures by: 1000 under `ktokens/s`."""
    match = _THOUSANDS.search(header)
    if match is None:
        return 1
    return 1000**2 if re.match(r"[Mm](?!.*1000)|.*[6⁶]$", match[1]) else 1000
