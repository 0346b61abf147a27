"""The matrix, the profiles and the templates of one checkout, each loaded once."""

import functools
import re
import shlex
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from profiles.cluster import Cluster, load_cluster
from profiles.matrix import DoesNotFit, Job, load_matrix, plan_job
from profiles.render_job import make_environment, render_job
from profiles.toml_model import ProfileError, name_nearest

_HEADER = re.compile(r"^# Rendered for cluster .+ by: (python render\.py .+)$", re.MULTILINE)


class Repository:
    """What render.py and submit.py read of the checkout at `root`; raises ProfileError."""

    def __init__(self, root: Path):
        self.root = root
        self.matrix = load_matrix(root / "experiments/matrix.toml")
        self.load_profile = functools.cache(
            functools.partial(load_cluster, folder=root / "templates/clusters")
        )
        self.options_of = functools.cache(self._read_options)

    @functools.cached_property
    def templates(self):
        """The Jinja environment."""
        return make_environment(self.root / "templates")

    def select(self, glob: str, option: str = "--only", workload: str | None = None) -> list[str]:
        """List the jobs, of `workload` if given, whose name or folder matches `glob`.

        A folder's last part, or its path below the workload's folder, is enough for a job of
        `workload`, and without it for one of the matrix's first.
        """
        if workload is not None and workload not in self.matrix.workloads:
            hint = name_nearest(workload, list(self.matrix.workloads))
            raise ProfileError(f'no workload "{workload}" in experiments/matrix.toml; {hint}')
        rows = {
            name: row for name, row in self.matrix.jobs.items() if workload in (None, row.workload)
        }
        usual = workload or next(iter(self.matrix.workloads))
        names = []
        for name, row in rows.items():
            texts = [name, row.folder]
            if row.workload == usual:
                texts += [row.folder.removeprefix(f"{usual}/"), Path(row.folder).name]
            if any(fnmatch(text, glob) for text in texts):
                names.append(name)
        if not names:
            known = [*rows, *(row.folder for row in rows.values())]
            of = f' of workload "{workload}"' if workload else ""
            hint = name_nearest(glob, known)
            raise ProfileError(f'no job{of} matches {option} "{glob}"; {hint}')
        return names

    def plan(self, name: str, profile: str) -> Job:
        """Work out job `name` for the cluster `profile` (a name or a file)."""
        job = plan_job(name, self.matrix, self.load_profile(profile))
        known = self.options_of(job.trainer)
        for option in job.args if known else ():
            if option not in known:
                raise ProfileError(
                    f'job "{name}": scripts/{job.trainer} has no option "{option}"; '
                    f"{name_nearest(option, sorted(known))} (in experiments/matrix.toml or the "
                    "profile's train_args)"
                )
        return job

    def _read_options(self, trainer: str) -> set[str]:
        """The options that a trainer's source names, read without importing PyTorch.

        None for a trainer that is not written yet.
        """
        source = self.root / "scripts" / trainer
        if not source.is_file():
            return set()
        # Options of another workload's package (training/translation/) are none of this one's.
        imported = source.read_text(encoding="utf-8")
        folder = self.root / "scripts/training"
        folders = [folder, *(p for p in folder.glob("*/") if f"training.{p.name}" in imported)]
        sources = [source, *(module for path in folders for module in sorted(path.glob("*.py")))]
        known = set()
        for path in sources:
            text = path.read_text(encoding="utf-8")
            known |= set(re.findall(r'"--([a-z][a-z0-9-]*)"', text))
            if 'f"--{' in text:  # options made in a loop: their names are words of that file
                known |= set(re.findall(r'"([a-z][a-z0-9-]*)"', text))
        return known

    def render(self, job: Job, profile: str) -> str:
        """Render `job` for the cluster `profile`."""
        cluster: Cluster = self.load_profile(profile)
        command = f"python render.py --cluster {shlex.quote(profile)}"
        return render_job(job, cluster, self.templates, command)

    def list_unrunnable(self, profile: str) -> dict[str, str]:
        """Job name -> why the cluster `profile` cannot run it, of all the matrix's jobs."""
        reasons = {}
        for name in self.matrix.jobs:
            try:
                self.plan(name, profile)
            except DoesNotFit as misfit:
                reasons[name] = misfit.reason
        return reasons

    def script_of(self, name: str, folder: Path) -> Path:
        """The job script of `name` below `folder` (experiments/, or where --to wrote)."""
        row = self.matrix.jobs[name]
        return folder / row.folder / f"{row.template}.slurm"

    def profile_of(self, text: str) -> str:
        """The cluster that a job script says it was rendered for, else the matrix's."""
        return read_header(text) or self.matrix.cluster

    def usual_profile(self, folder: Path) -> str:
        """The cluster that most job scripts below `folder` were rendered for, else the matrix's."""
        scripts = (self.script_of(name, folder) for name in self.matrix.jobs)
        profiles = Counter(
            self.profile_of(script.read_text(encoding="utf-8", errors="replace"))
            for script in scripts
            if script.is_file()
        )
        return profiles.most_common(1)[0][0] if profiles else self.matrix.cluster


def read_header(text: str) -> str | None:
    """The profile in a job script's header; None when it has none, so that render.py made it not.

    What else the header's command line may say is passed over.
    """
    header = _HEADER.search(text)
    try:
        words = shlex.split(header[1]) if header else []
    except ValueError:  # a quote that somebody's edit left open
        return None
    return words[3] if len(words) > 3 else None
