"""Which GPUs of a node's log are the job's own: on a shared node it shows all of the node's."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from scaling.read.gpu_log import read_gpu_log
from scaling.read.gpu_series import GpuLog
from scaling.runs.run_record import Run

NOT_OWN = "a GPU that is not the job's"


def find_own_uuids(run: Run, uuids: Iterable[str]) -> set[str]:
    """Return those of a log's UUIDs that run.json names as its ranks'; all when it names none.

    All, too, when none of them is in the log: of a slice of a GPU the two tools name
    different things.
    """
    uuids = set(uuids)
    recorded = (run.settings or {}).get("gpu_uuids")
    named = {_tidy(uuid) for uuid in recorded if uuid} if isinstance(recorded, list) else set()
    return {uuid for uuid in uuids if _tidy(uuid) in named} or uuids


def _tidy(uuid: object) -> str:
    return str(uuid).strip().lower().removeprefix("gpu-")


def read_own_gpu_log(run: Run, path: Path) -> GpuLog:
    """Return a node's log with the job's GPUs alone; the rows of others are ignored as such.

    Raises UserError when it cannot be read (see read_gpu_log).
    """
    log = read_gpu_log(path)
    own = find_own_uuids(run, (gpu.uuid for gpu in log.gpus))
    gpus = tuple(gpu for gpu in log.gpus if gpu.uuid in own)
    others = sum(gpu.n for gpu in log.gpus) - sum(gpu.n for gpu in gpus)
    if not others:
        return log
    ignored = {**log.ignored, NOT_OWN: others}
    return replace(log, gpus=gpus, kept=log.kept - others, ignored=ignored)
