"""Whether a training fits a GPU: what training/memory_estimate.py predicts, asked for and kept.

The prediction needs PyTorch and some seconds per configuration, so it is a program of its own and
its answers are kept in the user's cache folder.
"""

import hashlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from common.errors import UserError
from common.files import hash_file, write_whole

SCRIPTS = Path(__file__).resolve().parent.parent
RESERVE_MIB = 2048  # CUDA's context, NCCL's buffers, workspaces of cuBLAS and cuDNN, gaps
MARGIN = 1.15  # a prediction may be off by so much
TIMEOUT_S = 600
DEFINITION = (
    f"Predicted from one step on fake tensors, which hold no data, to about {MARGIN - 1:.0%}; "
    f"{RESERVE_MIB} MiB are kept free for the driver, NCCL and workspaces."
)


def predict_memory(requests: list[dict], python: str = sys.executable) -> list[dict]:
    """Return an answer for each request of memory_estimate.py: MiB by part, or {"error": why}."""
    kept_in = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = kept_in / "ddp-scaling/memory.json"
    keys = [json.dumps([*name_sources(), request], sort_keys=True) for request in requests]
    kept = read_kept(path)
    new = {key: request for key, request in zip(keys, requests, strict=True) if key not in kept}
    if new:
        if sys.stderr.isatty():
            print("predicting memory; the first time it takes up to a minute", file=sys.stderr)
        answers = dict(zip(new, ask(list(new.values()), python), strict=True))
        kept |= answers
        keep(path, {key: answer for key, answer in kept.items() if "error" not in answer})
    return [kept[key] for key in keys]


def name_sources() -> list[str]:
    """What an answer depends on besides its request: PyTorch's version, and the sources."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        version = "none"
    digest = hashlib.sha256()
    for path in sorted((SCRIPTS / "training").rglob("*.py")):
        digest.update(hash_file(path, hashlib.sha256()).encode())
    return [version, digest.hexdigest()]


def read_kept(path: Path) -> dict[str, dict]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def keep(path: Path, answers: dict[str, dict]) -> None:
    """Keep the newest answers; a folder that cannot be written costs the next call its seconds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(dict(list(answers.items())[-200:])))
    except (OSError, UserError):
        return


def ask(requests: list[dict], python: str) -> list[dict]:
    """Run the program once for all requests; each answer says why where it could not."""
    command = [python, "-m", "training.memory_estimate"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(
        [*filter(None, [os.environ.get("PYTHONPATH")]), str(SCRIPTS)])}  # fmt: skip
    try:
        done = subprocess.run(
            command, input=json.dumps(requests), capture_output=True, text=True, check=False,
            timeout=TIMEOUT_S, env=environment,
        )  # fmt: skip
        answers = json.loads(done.stdout) if done.returncode == 0 else None
    except subprocess.TimeoutExpired:
        return [{"error": f"no answer in {TIMEOUT_S} s"}] * len(requests)
    except (OSError, ValueError):
        answers = None
    if isinstance(answers, list) and len(answers) == len(requests):
        return answers
    said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    why = f"{python} has no PyTorch" if "No module named 'torch'" in said[0] else said[0]
    return [{"error": why}] * len(requests)


# ---- What it means for a GPU ---------------------------------------------------------------


def find_largest_batch(answer: dict, gpu_mib: float) -> int:
    """The largest batch per GPU and pass that is sure to fit; 0 when not even one sample does."""
    room = (gpu_mib - RESERVE_MIB) / MARGIN - answer["fixed_mib"]
    return max(0, int(room // answer["per_sample_mib"]))


def judge_memory(answer: dict, gpu_mib: float) -> str:
    """Say `fits`, `may not fit` (within the prediction's margin) or `does not fit`."""
    peak, room = answer["peak_mib"], gpu_mib - RESERVE_MIB
    if peak * MARGIN <= room:
        return "fits"
    return "may not fit" if peak / MARGIN <= room else "does not fit"
