"""Say what kind of file this is, by what is in it; its name only says what it should be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from common.console import shorten
from common.errors import UserError
from scaling.read import columns, cpu_log, sacct
from scaling.read.contract import LARGEST_JSON_BYTES
from scaling.read.text import clean_line, read_lines

SLURM_OUT, GPU_CSV, PSRECORD, SACCT = "slurm-out", "gpu-csv", "psrecord", "sacct"
RANK_JSON, METRICS, RUN_JSON, JOB_END = "rank-json", "training-metrics", "run-json", "job-end"
MARKER = "end-marker"  # RUN_COMPLETE.txt, REQUEUE: that it is there is what it says
TRAINER_LOG = "trainer-log"  # of another trainer, by a log format
UNKNOWN = "not recognised"
PLAIN_TEXT = "text without a line of a kind known here"

_MARKER_BYTES = 1024
_HEAD_LINES = 500  # a table's header stands among them
_NAMES = {
    GPU_CSV: r"gpu_memory_log.*\.csv",
    PSRECORD: r"cpu_memory_log.*\.txt",
    RANK_JSON: r"rank\d+_results_epoch\d+\.json",
    METRICS: r"training_metrics.*\.json",
    RUN_JSON: r"run\.json",
    JOB_END: r"job_end\.json",
    MARKER: r"RUN_COMPLETE\.txt|REQUEUE",
    SLURM_OUT: r"(?:.+[_.-])?\d+(?:\.\d+)?\.out",
}
_HEADERS = {
    PSRECORD: cpu_log.parse_header, SACCT: sacct.parse_header, GPU_CSV: columns.parse_gpu_header,
}  # fmt: skip
# What no other log has: Slurm's, NCCL's, torchrun's and our trainers' own lines.
SLURM_WORDS = re.compile(
    r"Epoch \[\d+/\d+\] LR: |Total training time: |Best validation |slurmstepd: |srun: |"
    r"NCCL (?:INFO|WARN|version) |Traceback \(most recent call last\)|torch\.distributed|"
    r"DUE TO TIME LIMIT|\*\*\* (?:JOB|STEP) |slurm_script: |oom[_-]kill"
)
_TRAINERS_WORDS = re.compile(r"Epoch \[\d+/\d+\] LR: |Total training time: |NCCL |Traceback \(most")
_BEGINS_JSON = re.compile(r"\{\s*(?:\"|$)")  # an object, if only its beginning
_METRICS_LISTS = (
    "train_time_per_epoch", "train_loss_per_epoch", "val_loss_per_epoch", "train_throughput",
)  # fmt: skip
_METRICS_FIELDS = {"training_config", "summary", "hardware", "schema_version"}
_RATE = re.compile(r"(?:mean_)?(?:tokens|samples|images)_per_sec(?:ond)?(?:_global)?")
_FIGURE = re.compile(r".*(?:time|loss|accuracy|perplexity|bleu).*")
_MAGIC = {
    b"\x1f\x8b": "gzip data: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first; of an .xlsx workbook save the sheet as CSV",
}
# What other tools print, by one of its first lines -> its name and what to give instead.
_QUERY = f"log with `{columns.LOG_COMMAND}`"
_LOOKS = {
    r"# *(?:date +)?(?:time[ ,]+)?gpu[ ,]": f"nvidia-smi dmon's or pmon's table: {_QUERY}",
    r"\|? *NVIDIA-SMI +\d": f"nvidia-smi's screen: {_QUERY}",
    r"# *Entity\b": f"dcgmi dmon's table: {_QUERY}",
    r"\[\d+\] .*\|.*%.*\|.*\d+ / +\d+ MB": f"gpustat's screen: {_QUERY}",
    r"=+ ?ROCm System Management|GPU\[\d+\]\s*:": "rocm-smi's screen: use --csv",
    r"GPU(?: +\w+)* +POWER\b|\|? *AMD-SMI +\d|GPU: \d+$": "amd-smi's screen: use --csv",
    r"Job ID: \d+$": f"seff's report: give the output of `{sacct.COMMAND}`",
}


class Kind(NamedTuple):
    """A file's kind and, when it is not recognised, the reason; `record` of a whole JSON file.

    `is_whole` is False for JSON that breaks off, of whatever kind it would be.
    """

    name: str
    reason: str = ""
    record: dict | None = None
    is_whole: bool = True


def expected_kind(path: Path) -> str | None:
    """Return the kind that a file of that name should be, None when the name says nothing."""
    return next((kind for kind, name in _NAMES.items() if re.fullmatch(name, path.name)), None)


def detect_kind(path: Path) -> Kind:
    """Return what a file is; raises UserError when it cannot be read."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: it is a folder; name the files in it")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a regular file: save it to a file first")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if expected_kind(path) == MARKER and path.stat().st_size <= _MARKER_BYTES:
        return Kind(MARKER)
    lines = [clean_line(line) for line, _ in islice(read_lines(path), _HEAD_LINES)]
    lines = [line for line in lines if line.strip()]
    if not lines:
        what = "blank lines only" if path.stat().st_size else ""
        return Kind(UNKNOWN, f"it has {what}" if what else "it is empty")
    found = _detect_json(path) if lines[0].lstrip()[:1] in ("{", "[") else None
    return found or _detect_table(lines) or _detect_text(path, lines)


def _detect_table(lines: list[str]) -> Kind | None:
    """Return the kind of a log that its header names."""
    for line in lines:
        if _TRAINERS_WORDS.search(line):
            return None  # a table below is part of a job's log
        if kind := next((kind for kind, parse in _HEADERS.items() if parse(line)), ""):
            return Kind(kind)
    return None


def _detect_text(path: Path, lines: list[str]) -> Kind:
    """Return whether it is a job's log; a script or a document may quote one."""
    quotes = lines[0].startswith("#!") or any(line.startswith("```") for line in lines)
    if not quotes and any(map(SLURM_WORDS.search, lines)):
        return Kind(SLURM_OUT)
    reason = _explain(path, lines)
    is_named = expected_kind(path) == SLURM_OUT  # of a job that printed nothing of ours
    if not (quotes or reason) and (
        is_named or any(SLURM_WORDS.search(line) for line, _ in read_lines(path))
    ):
        return Kind(SLURM_OUT)
    is_csv = len(lines) > 1 and "," in lines[0] and lines[0].lstrip()[:1] not in ("{", "[")
    is_csv = is_csv and len({line.count(",") for line in lines[:10]}) == 1
    what = "a CSV of another kind:" if is_csv else f"{PLAIN_TEXT}; it begins"
    return Kind(UNKNOWN, reason or f'{what} "{shorten(lines[0], 80)}"')


def _detect_json(path: Path) -> Kind | None:
    """Return the kind of a JSON file, None when it is none (a log may begin with a bracket)."""
    if path.stat().st_size > LARGEST_JSON_BYTES:
        return None
    text = path.read_bytes().decode(errors="replace").lstrip("\ufeff \t\r\n")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        if not _BEGINS_JSON.match(text):
            return None
        return Kind(UNKNOWN, "JSON that breaks off", is_whole=False)
    if not isinstance(record, dict):
        return Kind(UNKNOWN, "JSON, but no object")
    kind = judge_record(record)
    reason = "" if kind != UNKNOWN else f"JSON with the fields {list_fields(record)}"
    return Kind(kind, reason, record)


def judge_record(record: dict) -> str:
    """Return the kind of a JSON object, by the fields that it has."""
    is_rank, fields = is_rank_record(record), set(record)
    jobs = record["jobs"] if isinstance(record.get("jobs"), list) else []
    kinds = {
        METRICS: is_training_metrics(record) and not (is_rank and "world_size" not in record),
        RANK_JSON: is_rank,
        JOB_END: {"exit_status", "elapsed_s"} <= fields,
        SACCT: any(isinstance(job, dict) and {"job_id", "steps"} <= set(job) for job in jobs),
        RUN_JSON: {"run_id", "world_size"} <= fields or {"workload", "nodes"} <= fields,
    }
    return next((kind for kind, is_it in kinds.items() if is_it), UNKNOWN)


def is_rank_record(record: dict) -> bool:
    """Whether a JSON object is what a rank writes: a training time and a rate, of no list."""
    return "training_time" in record and "epochs" not in record and _has_rate(record)


def is_training_metrics(record: dict) -> bool:
    """Whether a JSON object is a training_metrics.json, of either schema or a summary alone."""
    if any(isinstance(record.get(key), list) for key in _METRICS_LISTS):
        return True
    epochs = record.get("epochs")
    if not isinstance(epochs, list):
        return "world_size" in record and _has_rate(record)  # a summary alone
    names = {key for entry in epochs if isinstance(entry, dict) for key in entry}
    has_figure = _has_rate(names) or any(map(_FIGURE.fullmatch, names))
    return has_figure or bool(_METRICS_FIELDS & set(record))


def _has_rate(names: Iterable[str]) -> bool:
    return any(map(_RATE.fullmatch, names))


def list_fields(record: dict) -> str:
    """Return the names of a JSON object's fields, the first of them when there are many."""
    return shorten(", ".join(map(str, record)) or "none", 80)


def name_other_tool(path: Path) -> str:
    """Return what a file is that no reader takes and what to give instead, else ''."""
    with path.open("rb") as file:
        start = file.read(8)
    lines = [clean_line(line) for line, _ in islice(read_lines(path), 20)]
    found = [words for magic, words in _MAGIC.items() if start.startswith(magic)]
    found += [words for line in lines for look, words in _LOOKS.items()
              if re.match(look, line, re.IGNORECASE)]  # fmt: skip
    return next(iter(found), "")


def _explain(path: Path, lines: list[str]) -> str:
    """Return what it is that is no job's log, '' when it may be one."""
    if words := name_other_tool(path):
        return words
    if lines[0].startswith("#!"):
        return f'a script: "{shorten(lines[0], 80)}"'
    if said := next(filter(columns.ERROR_TEXT.search, lines[:3]), ""):
        return f'only what a GPU tool said: "{shorten(said, 100)}"'
    text = "".join(lines)[:65536]
    return "binary data" if text.count("\ufffd") * 20 > len(text) else ""
