"""Where a run keeps its files, and what its JSON may hold: the run contract's reading side."""

from __future__ import annotations

import json
import os
import re
import shlex
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from common.console import printable, shorten
from common.errors import UserError
from scaling.read.text import UTC, parse_timestamp

RUN_FOLDERS = ("log", "results", "gpu_memory", "cpu_memory")
RUN_ID = re.compile(r"(\d{1,18})(?:\.(\d{1,6}))?")  # <job id>, or <job id>.<restart>
LARGEST_JSON_BYTES = 1 << 24

# As --output is usually set: %x_%j.out, slurm-%j.out, %j.out; of %x.%j.out no restart is known.
_LOG_NAME = re.compile(
    r"(?:(?P<name>.+?)[_-])?(?P<id>\d{1,18}(?:\.\d{1,6})?)\.out"
    r"|(?P<dotted>[^/]*[^\d./][^/]*?)\.(?P<plain>\d{1,18})\.out"
)
_NODE_FILE = re.compile(r"(?:gpu|cpu)_memory_log(?:_node(\d{1,6}))?\.(?:csv|txt)")
_JOB_NAME = re.compile(r"(?:^|_)(\d{1,4})g(\d{1,5})n$")
_PATH_SCALE = re.compile(r"(?P<count>\d{1,5})_(?P<what>gpus?|nodes?)", re.IGNORECASE)
_SCRIPT_JOB_NAME = re.compile(r"#SBATCH\s+(?:--job-name[= ]|-J\s*)\s*[\"']?([\w.-]+)")
_DIRECTIVES = {
    "nodes": r"(?:--nodes[= ]|-N\s*)(\d{1,5})(?![\d-])",
    "gpus": r"(?:--gpus[= ]|-G\s*)(?:[\w.-]+:)?(\d{1,5})\b",
    "per node": r"--gpus-per-node[= ](?:[\w.-]+:)?(\d{1,4})\b",
    "gres": r"--gres[= ](?:[^\s#]*,)?gpu:(?:[\w.-]+:)?(\d{1,4})\b",
}
OTHER_WORKLOADS = ("minimal", "gpt2", "translation", "spiral")  # as their folders are named


def split_id(run_id: str) -> tuple[int, int]:
    """Return (job id, restart) of `12` or `12.1`: numbers, so that they sort in time."""
    match = RUN_ID.fullmatch(run_id)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)


def parse_log_name(name: str) -> tuple[str, str] | None:
    """Return (job name, id) of `ddp_1g1n_12.out`, None for another file's name.

    The job name is "" in `12.out`.
    """
    match = _LOG_NAME.fullmatch(name)
    if match is None:
        return None
    return match["name"] or match["dotted"] or "", match["id"] or match["plain"]


def find_node_files(folder: Path, kind: str = "") -> dict[int, Path]:
    """Return node number -> GPU or CPU log of a run; a file without a number is node 0's.

    kind: only names that begin so, for a folder that holds other files too.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _NODE_FILE.fullmatch(path.name)
        if match and path.name.startswith(kind) and path.is_file():
            found[int(match[1] or 0)] = path  # sorted: `_node0` comes last and wins
    return dict(sorted(found.items()))


def find_scale(job_name: str | None, folder: Path) -> tuple[int | None, int | None]:
    """Return (nodes, GPUs per node) of a job, None for what nothing says.

    It is said by the job's name, `ddp_<GPUs per node>g<nodes>n`, else by its folder's, else by what
    the only job script of the folder asks for.
    """
    if match := _JOB_NAME.search(job_name or ""):
        return int(match[2]), int(match[1])
    if folder.name == "baseline":
        return 1, 1
    if match := _PATH_SCALE.fullmatch(folder.name):
        count = int(match["count"])
        return (1, count) if match["what"].lower().startswith("gpu") else (count, None)
    text = _read_script(folder)
    asked = {
        name: int(found[-1])
        for name, pattern in _DIRECTIVES.items()
        if (found := re.findall(rf"^#SBATCH\s+{pattern}", text, re.MULTILINE))
    }
    nodes, gpus = asked.get("nodes"), asked.get("gpus")
    per_node = asked.get("per node") or asked.get("gres")
    if gpus and (nodes or per_node):
        nodes = nodes or gpus // per_node
        per_node = per_node or gpus // nodes
    elif gpus == 1 or (per_node and nodes is None):
        nodes, per_node = 1, per_node or 1  # sbatch's own default
    return (nodes, per_node) if per_node else (None, None)


def _read_script(folder: Path) -> str:
    """Return the text of the only job script of a folder, "" when there is not just one."""
    scripts = [*folder.glob("*.slurm"), *folder.glob("*.sbatch")]
    return _read_head(scripts[0]) if len(scripts) == 1 else ""


def _read_head(script: Path) -> str:
    try:
        with script.open(encoding="utf-8", errors="replace") as file:
            return file.read(100_000)
    except OSError:
        return ""


def read_script_job_name(script: Path) -> str | None:
    """Return the `#SBATCH --job-name` of a job script, None when it has none."""
    match = _SCRIPT_JOB_NAME.search(_read_head(script))
    return match[1] if match else None


def workload_of_path(folder: Path) -> str | None:
    """Return the workload that a job folder is of: by the matrix above it, else by its place."""
    for top in list(folder.absolute().parents)[:5]:
        if (top / "matrix.toml").is_file():
            places = _read_places(top / "matrix.toml")
            return places.get(folder.absolute().relative_to(top).as_posix())
    return next((part for part in folder.parts[-3:-1] if part in OTHER_WORKLOADS), None)


@lru_cache(maxsize=8)
def _read_places(matrix: Path) -> dict[str, str]:
    """Return job folder -> workload, as a matrix.toml has them; {} for one that is none."""
    from common.toml import tomllib  # of no use inside a job, whose Python may lack it

    try:
        jobs = tomllib.loads(matrix.read_text(encoding="utf-8")).get("jobs", {})
        return {str(job["folder"]): str(job["workload"]) for job in jobs.values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


# As templates/base.slurm.j2 writes it: the script's own name, and what the site has for sbatch.
_SOURCES_JOB_SH = re.compile(r'^source "\$REPO_DIR/scripts/job\.sh" ([^"\n]*)$', re.MULTILINE)


def make_resume_command(folder: Path, checkpoints: Path) -> str | None:
    """Return what to type to continue from a job's newest checkpoint, None where that cannot be.

    folder: the job's own, with its script.
    """
    scripts = sorted(folder.glob("*.slurm"))
    if len(scripts) != 1 or not any(checkpoints.glob("step_*.pt")):
        return None
    given: list[str] = []
    with suppress(ValueError):  # a script that ends in a quote
        if sourced := _SOURCES_JOB_SH.search(_read_head(scripts[0])):
            given = shlex.split(sourced[1], comments=True)
    sbatch = given[1] if len(given) > 1 else "sbatch"  # where the site has its own
    place, where = (shlex.quote(str(path.resolve())) for path in (folder, checkpoints))
    return f"cd {place} && CHECKPOINT_DIR={where} {sbatch} {shlex.quote(scripts[0].name)}"


def read_json(path: Path) -> dict:
    """Return the object in a JSON file; raise UserError that names it when there is none."""
    data = b""
    try:
        # With a buffer of the file's size: a run of 64 ranks and 10 epochs has 640 small ones.
        with open(path, "rb") as file:  # noqa: PTH123 - Path.open takes a third longer
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, LARGEST_JSON_BYTES) + 1)
        if len(data) > LARGEST_JSON_BYTES:
            raise ValueError(f"larger than {LARGEST_JSON_BYTES >> 20} MiB")
        record = json.loads(data)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: nested too deeply") from error
    except ValueError as error:
        why = "it is empty" if not data.strip() else shorten(str(error), 80)
        raise UserError(f"{path} cannot be read: {why}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} cannot be read: it holds no JSON object")
    return record


def whole_number(record: dict, key: str, path: Path, least: int = 0) -> int | None:
    """Return record[key], None when absent or null; raise UserError for anything else."""
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(
            f"{path} cannot be used: {key} is {printable(repr(value))[:40]}, not a whole number "
            f">= {least}"
        )
    return value


def epochs_of(settings: dict | None) -> int | None:
    """Return how many epochs a run is to train, None where its run.json does not say."""
    epochs = (settings or {}).get("epochs")
    is_number = isinstance(epochs, int) and not isinstance(epochs, bool)
    return epochs if is_number and 0 < epochs < 10**9 else None


def utc_time(record: dict, key: str) -> datetime | None:
    """Return an ISO 8601 time of the record as UTC, None when it has none that can be read."""
    value = record.get(key)
    when = parse_timestamp(value) if isinstance(value, str) else None
    if when is None:
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
