"""The matrix, the profiles and the templates of one checkout, each loaded once."""

import functools
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from common.errors import UserError
from profiles.cluster import Cluster, explain_place, load_cluster
from profiles.directives import list_directives
from profiles.matrix import DoesNotFit, Job, load_matrix, plan_job
from profiles.render_job import make_environment, render_job
from profiles.toml_model import name_nearest

_HEADER = re.compile(r"^# Rendered for cluster .+ by: (python render\.py .+)$", re.MULTILINE)


class Repository:
    """What render.py and submit.py read of the checkout at `root`; raises UserError."""

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
            raise UserError(f'no workload "{workload}" in experiments/matrix.toml; {hint}')
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
            raise UserError(f'no job{of} matches {option} "{glob}"; {hint}')
        return names

    def plan(self, name: str, profile: str) -> Job:
        """Work out job `name` for the cluster `profile` (a name or a file)."""
        cluster = self.load_profile(profile)
        job = plan_job(name, self.matrix, cluster)
        list_directives(job, cluster)  # so that --list, too, refuses what excludes each other
        known = self.options_of(job.trainer) if job.is_own else ()
        for option in job.args if known else ():
            if option not in known:
                table = cluster.train_args.get(job.workload, {})
                if option in table and option in Cluster.model_fields:
                    where = explain_place(option, f"train_args.{job.workload}")
                    raise UserError(f"{cluster.shown}: {where}")
                raise UserError(
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
    """The profile in a job script's header; None without one: render.py did not make it.

    What else the header's command line may say is passed over.
    """
    header = _HEADER.search(text)
    try:
        words = shlex.split(header[1]) if header else []
    except ValueError:  # a quote that somebody's edit left open
        return None
    return words[3] if len(words) > 3 else None


# ---- Which jobs a command line names ---------------------------------------------------


def default_workload(repository: Repository) -> str:
    """The workload that is meant when none is named: the matrix's first."""
    return next(iter(repository.matrix.workloads))


def select_scale(repository: Repository, scale: str, workload: str | None) -> list[str]:
    """List the jobs that `scale` names: a job's name, its folder or the folder's last part.

    Every workload may have a `baseline`: the one meant is `workload`'s, else the default
    workload's. What only another workload has (`gpt2/baseline`, `gpt2_1g1n`) is found without.
    Raises UserError naming the nearest when none matches.
    """
    names = repository.select(scale, "the scale", workload)
    if workload is not None:
        return names
    rows, usual = repository.matrix.jobs, default_workload(repository)
    return [name for name in names if rows[name].workload == usual] or names


def plan_scales(
    repository: Repository,
    scales: Iterable[str],
    experiments: Path,
    workload: str | None = None,
    every: bool = False,
) -> tuple[list[Job], list[str]]:
    """Plan the jobs that `scales` name, each once, in the matrix's order.

    With `every` (--all), jobs that were not rendered or that their cluster cannot run are left
    out: returns the jobs, and a sentence for each that is left out. Without it such a job raises
    UserError.
    """
    wanted = {name for scale in scales for name in select_scale(repository, scale, workload)}
    jobs, left_out = [], []
    for name, row in repository.matrix.jobs.items():
        if name not in wanted or (every and not row.in_all):
            continue
        script = repository.script_of(name, experiments)
        try:
            if not script.is_file() and every:
                left_out.append(f"{name}, which has no {script}")
                continue
            if not script.is_file():
                raise UserError(f"{script} is missing; run: python render.py --only {name}")
            profile = repository.profile_of(script.read_text(encoding="utf-8", errors="replace"))
            jobs.append(repository.plan(name, profile))
        except DoesNotFit as misfit:
            if not every:
                raise
            left_out.append(str(misfit))
    return jobs, left_out


# ---- What the profiles say of the jobs, for the tables ----------------------------------


def find_profiles(repository: Repository, experiments: Path) -> dict[str, str]:
    """Return job name -> the profile that its script was rendered for.

    A job without a script belongs to the cluster of most scripts, since render.py leaves out
    what that cluster cannot run. Empty where no script says for which cluster it is.
    """
    profiles = {}
    for name in repository.matrix.jobs:
        script = repository.script_of(name, experiments)
        text = script.read_text(encoding="utf-8", errors="replace") if script.is_file() else ""
        if "\n# Rendered for cluster " in text:
            profiles[name] = repository.profile_of(text)
    if not profiles:
        return {}
    usual = Counter(profiles.values()).most_common(1)[0][0]
    return {name: profiles.get(name, usual) for name in repository.matrix.jobs}


def list_misfits(repository: Repository, workload: str, profiles: dict[str, str]) -> dict[str, str]:
    """Return job folder -> why its cluster cannot run it, of a workload's jobs."""
    unrunnable = {name: repository.list_unrunnable(name) for name in set(profiles.values())}
    return {
        row.folder: f"the cluster cannot run it: {unrunnable[profiles[name]][name]}"
        for name, row in repository.matrix.jobs.items()
        if row.workload == workload and name in unrunnable.get(profiles.get(name), {})
    }


def list_expected(
    repository: Repository, workload: str, profiles: dict[str, str]
) -> dict[str, dict]:
    """Return job folder -> `throughput`, `tolerance_pct` and `source`, as the profile expects."""
    found = {}
    for name, profile in profiles.items():
        row = repository.matrix.jobs[name]
        entry = repository.load_profile(profile).expected.get(name)
        if entry is not None and row.workload == workload:
            found[row.folder] = dict(entry)  # a pydantic model gives its fields, too
    return found
