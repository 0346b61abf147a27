"""A job that is cut off and goes on must get somewhere each time, or it would go on for ever."""

import json
import os
from pathlib import Path

from training.errors import TrainingError
from training.files import write_json

WITHOUT_PROGRESS = 3  # attempts that began at the same step are enough


def check_progress(folder: Path, step: int) -> None:
    """Note in attempts.json that a restarted job begins after `step` steps.

    Raises TrainingError when the last restarts all began there: whatever ended them will end the
    next one, too.
    """
    if not int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return
    path = folder / "attempts.json"
    begun = json.loads(path.read_text())["begun_after_step"] if path.exists() else []
    if begun[-WITHOUT_PROGRESS:] == [step] * WITHOUT_PROGRESS:
        raise TrainingError(
            f"{WITHOUT_PROGRESS} restarts began after step {step} and none got further; look at "
            f"the log for what ended them, then remove {path} to try again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"begun_after_step": [*begun, step]})


def may_go_on(restarts: int, most: int) -> bool:
    """Whether one more restart is allowed; says so when it is not."""
    if restarts < most:
        return True
    print(
        f"Saved, but not asking Slurm to go on: {restarts} restarts are --max-restarts; "
        "raise it and requeue the job by hand",
        flush=True,
    )
    return False
