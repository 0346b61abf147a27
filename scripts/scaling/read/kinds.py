"""Say what kind of file this is, by what is in it; its name only says what it should be."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from common.console import shorten
from common.errors import UserError
from scaling.read import cpu_columns, gpu_columns, gpu_headerless, sacct
from scaling.read.contract import LARGEST_JSON_BYTES
from scaling.read.json_prefix import read_prefix
from scaling.read.metrics_json import is_training_metrics
from scaling.read.rank_json import is_rank_record
from scaling.read.text import clean_line, read_lines

SLURM_OUT, GPU_CSV, PSRECORD, SACCT = "slurm-out", "gpu-csv", "psrecord", "sacct"
RANK_JSON, METRICS, RUN_JSON, JOB_END = "rank-json", "training-metrics", "run-json", "job-end"
UNKNOWN = "not recognised"

_HEAD_LINES = 500  # a table's header stands among them
_NAMES = (
    (re.compile(r"gpu_memory_log.*\.csv"), GPU_CSV),
    (re.compile(r"cpu_memory_log.*\.txt"), PSRECORD),
    (re.compile(r"rank\d+_results_epoch\d+\.json"), RANK_JSON),
    (re.compile(r"training_metrics.*\.json"), METRICS),
    (re.compile(r"run\.json"), RUN_JSON),
    (re.compile(r"job_end\.json"), JOB_END),
    (re.compile(r"(?:.+[_.-])?\d+(?:\.\d+)?\.out"), SLURM_OUT),
)
# What no other log has: Slurm's, NCCL's, torchrun's and our trainers' own lines.
SLURM_WORDS = re.compile(
    r"Epoch \[\d+/\d+\] LR: |Total training time: |Best validation |slurmstepd: |srun: |"
    r"NCCL (?:INFO|WARN|version) |Traceback \(most recent call last\)|torch\.distributed|"
    r"DUE TO TIME LIMIT|\*\*\* (?:JOB|STEP) |slurm_script: |oom[_-]kill"
)
_TRAINERS_WORDS = re.compile(r"Epoch \[\d+/\d+\] LR: |Total training time: |NCCL |Traceback \(most")
UNPACK = "unpack it first"
_MAGIC = (
    (b"\x1f\x8b", f"gzip data: {UNPACK}"),
    (b"PK\x03\x04", f"a zip archive: {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"zstd data: {UNPACK}"),
    (b"\x89PNG", "a PNG image"),
    (b"%PDF", "a PDF document"),
)
_LOOKS = (
    (re.compile(r"# *gpu +(?:pid|#)", re.I), "nvidia-smi pmon's table of processes, no CSV"),
    (re.compile(r"# *gpu ", re.I), "nvidia-smi dmon's table, no CSV: log with --query-gpu=…"),
    (re.compile(r"\|? *NVIDIA-SMI +\d"), "nvidia-smi's screen, no CSV: log with --query-gpu=…"),
    (re.compile(r"GPU \d+: .*\(UUID: "), "nvidia-smi --list-gpus: it holds no measures"),
    (re.compile(r"=+ ?ROCm System Management|GPU\[\d+\]\s*:"), "rocm-smi's screen: use --csv"),
    (re.compile(r"(?:timestamp, )?(?:gpu_\w+, )*pid, .*used_(?:gpu_)?memory"),
     "nvidia-smi --query-compute-apps: memory of processes, not of GPUs"),
)  # fmt: skip


class Kind(NamedTuple):
    """A file's kind and, when it is not recognised, the reason; `record` of a JSON file.

    `is_whole` is False for JSON that breaks off.
    """

    name: str
    reason: str = ""
    record: dict | None = None
    is_whole: bool = True


def expected_kind(path: Path) -> str | None:
    """Return the kind that a file of that name should be, None when the name says nothing."""
    return next((kind for pattern, kind in _NAMES if pattern.fullmatch(path.name)), None)


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
    head = [(clean_line(line), has_end) for line, has_end in islice(read_lines(path), _HEAD_LINES)]
    lines = [line for line, _ in head if line.strip()]
    if not lines:
        return Kind(
            UNKNOWN, "it is empty" if not path.stat().st_size else "it has blank lines only"
        )
    if lines[0].lstrip()[:1] in ("{", "["):
        found = _detect_json(path)
        if found is not None:
            return found
    return _detect_table(lines) or _detect_log(path, lines) or Kind(UNKNOWN, _explain(path, lines))


def _detect_table(lines: list[str]) -> Kind | None:
    """Return the kind of a log that its header names, or its rows when it has none."""
    for line in lines:
        if _TRAINERS_WORDS.search(line):
            return None  # a table below is part of a job's log
        if cpu_columns.parse_header(line):
            return Kind(PSRECORD)
        if sacct.parse_header(line):
            return Kind(SACCT)
        if gpu_columns.parse_header(line):
            return Kind(GPU_CSV)
    if cpu_columns.is_bare_log(lines[:50]):
        return Kind(PSRECORD)
    rows = [gpu_columns.split_fields(line) for line in lines[:50] if "," in line]
    widths = [len(row) for row in rows]
    usual = [row for row in rows if len(row) == max(set(widths), key=widths.count)]
    return Kind(GPU_CSV) if gpu_headerless.infer_columns(usual) else None


def _detect_log(path: Path, lines: list[str]) -> Kind | None:
    if lines[0].startswith("#!") or any(line.startswith("```") for line in lines):
        return None  # a script or a document that quotes a log
    if any(SLURM_WORDS.search(line) for line in lines):
        return Kind(SLURM_OUT)
    if (
        _is_binary(lines)
        or _look(lines)
        or any(gpu_columns.ERROR_TEXT.search(line) for line in lines[:3])
    ):
        return None
    if expected_kind(path) == SLURM_OUT:
        return Kind(SLURM_OUT)  # of a job that printed nothing of ours
    late = any(SLURM_WORDS.search(line) for line, _ in read_lines(path))
    return Kind(SLURM_OUT) if late else None


def _detect_json(path: Path) -> Kind | None:
    """Return the kind of a JSON file, None when it is none (a log may begin with a bracket)."""
    if path.stat().st_size > LARGEST_JSON_BYTES:
        return None
    text = path.read_bytes().decode(errors="replace").lstrip("\ufeff \t\r\n")
    try:
        record, is_whole = json.loads(text), True
    except (ValueError, RecursionError):
        record, is_whole = read_prefix(text), False
    if not isinstance(record, dict):
        return Kind(UNKNOWN, "JSON, but no object") if is_whole else None
    kind = _judge_record(record)
    if kind == UNKNOWN and not is_whole:
        if not record:
            return Kind(UNKNOWN, "JSON that breaks off before its first whole field")
        return Kind(UNKNOWN, f"JSON that breaks off, with the fields {_list(record)}")
    return Kind(kind, "" if kind != UNKNOWN else f"JSON with the fields {_list(record)}",
                record, is_whole)  # fmt: skip


def _judge_record(record: dict) -> str:
    if is_rank_record(record) and "world_size" not in record:
        return RANK_JSON
    if is_training_metrics(record):
        return METRICS
    if is_rank_record(record):
        return RANK_JSON
    if "exit_status" in record and "elapsed_s" in record:
        return JOB_END
    if {"run_id", "world_size"} <= set(record) or {"workload", "nodes"} <= set(record):
        return RUN_JSON
    return UNKNOWN


def _list(record: dict) -> str:
    return shorten(", ".join(map(str, record)) or "none", 80)


def _is_binary(lines: list[str]) -> bool:
    text = "".join(lines)[:65536]
    return text.count("\ufffd") * 20 > len(text)


def _find_error(lines: list[str]) -> str:
    return next((line for line in lines[:3] if gpu_columns.ERROR_TEXT.search(line)), "")


def _look(lines: list[str]) -> str:
    return next((words for line in lines[:20] for look, words in _LOOKS if look.match(line)), "")


def _explain(path: Path, lines: list[str]) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    for magic, words in _MAGIC:
        if start.startswith(magic):
            return words
    if look := _look(lines):
        return look
    if lines[0].startswith("#!"):
        return f'a script: "{shorten(lines[0], 80)}"'
    said = _find_error(lines)
    if said:
        return f'only what a GPU tool said: "{shorten(said, 100)}"'
    if _is_binary(lines):
        return "binary data"
    if "," in lines[0] and len({line.count(",") for line in lines[:10]}) == 1:
        return f'a CSV of another kind: "{shorten(lines[0], 80)}"'
    return f'text without a line of a kind known here; it begins "{shorten(lines[0], 80)}"'
