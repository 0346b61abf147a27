"""Is the data of the jobs where they will look for it? Seen from the login node."""

import os
from collections.abc import Iterable
from pathlib import Path

from profiles.matrix import Job
from profiles.repository import Repository

# What prepare_data.py makes in each workload's folder; a workload that is not here needs no check.
CONTENTS = {
    "tinyimagenet": ("train", "val"),
    "gpt2": ("train_small.bin", "val_small.bin"),
    "translation": ("train.src", "train.tgt", "val.src", "val.tgt"),
}
WITHOUT_DATA = {"spiral"}  # it makes its own


def check_data(repository: Repository, jobs: Iterable[tuple[Job, str]]) -> list[str]:
    """Return a warning for each workload whose data cannot be seen; `jobs`: (job, profile).

    Warnings only: the nodes may see what a login node does not, and the reverse.
    """
    warnings: dict[str, None] = {}
    for job, profile in jobs:
        if job.workload in WITHOUT_DATA or "data-dir" in job.args:
            continue
        cluster = repository.load_profile(profile)
        folder = os.environ.get("DATA_DIR") or cluster.data_dir.get(job.workload)
        if folder is None:
            if "DATA_DIR" not in cluster.env and "DATA_DIR=" not in " ".join(cluster.setup):
                warnings[
                    f'no data for workload "{job.workload}": export DATA_DIR=FOLDER, or set '
                    f'data_dir in the profile of cluster "{cluster.name}"'
                ] = None
            continue
        if "$" not in folder and (problem := look_into(Path(folder), job.workload)):
            warnings[problem] = None
    return list(warnings)


def look_into(folder: Path, workload: str) -> str | None:
    """Return what is wrong with a workload's data folder, None when it looks right."""
    if not folder.is_dir():
        return f"{folder} is not visible from this machine; is it from the nodes?"
    lacking = [name for name in CONTENTS.get(workload, ()) if not (folder / name).exists()]
    if lacking:
        return (
            f"{folder} has no {' and no '.join(lacking)}, which {workload} needs; make them with: "
            f"python scripts/prepare_data.py {workload} --help"
        )
    return None
