"""The matrix, the profiles and the templates of one checkout, each loaded once."""

import functools
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

from profiles.cluster import Cluster, load_cluster
from profiles.matrix import Job, load_matrix, plan_job
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

    @functools.cached_property
    def templates(self):
        """The Jinja environment."""
        return make_environment(self.root / "templates")

    def select(self, glob: str, option: str = "--only") -> list[str]:
        """List the jobs whose name, or whose folder or its last part, matches `glob`."""
        rows = self.matrix.jobs.items()
        names = [
            name
            for name, row in rows
            if any(fnmatch(text, glob) for text in (name, row.folder, Path(row.folder).name))
        ]
        if not names:
            known = [*self.matrix.jobs, *(row.folder for _, row in rows)]
            raise ProfileError(f'no job matches {option} "{glob}"; {name_nearest(glob, known)}')
        return names

    def plan(self, name: str, profile: str) -> Job:
        """Work out job `name` for the cluster `profile` (a name or a file)."""
        job = plan_job(name, self.matrix, self.load_profile(profile))
        known = self.options_of(job.trainer)
        for option in job.args:
            if option not in known:
                raise ProfileError(
                    f'job "{name}": scripts/{job.trainer} has no option "{option}"; '
                    f"{name_nearest(option, sorted(known))} (in experiments/matrix.toml or the "
                    "profile's train_args)"
                )
        return job

    def options_of(self, trainer: str) -> set[str]:
        """The options that a trainer's source adds to its parser, without importing PyTorch."""
        sources = [self.root / "scripts" / trainer, self.root / "scripts/training/arguments.py"]
        text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
        return set(re.findall(r'add\(\s*"--([a-z][a-z0-9-]*)"', text))

    def render(self, job: Job, profile: str) -> str:
        """Render `job` for the cluster `profile`."""
        cluster: Cluster = self.load_profile(profile)
        command = f"python render.py --cluster {shlex.quote(profile)}"
        return render_job(job, cluster, self.templates, command)

    def script_of(self, name: str, folder: Path) -> Path:
        """The job script of `name` below `folder` (experiments/, or where --to wrote)."""
        row = self.matrix.jobs[name]
        return folder / row.folder / f"{row.template}.slurm"

    def profile_of(self, text: str) -> str:
        """The cluster that a job script says it was rendered for, else the matrix's."""
        header = _HEADER.search(text)
        return shlex.split(header[1])[3] if header else self.matrix.cluster
