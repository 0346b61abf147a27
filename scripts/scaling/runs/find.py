"""Find the runs below a folder: which there are, at which scale, and how each stands."""

import logging
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from scaling.read import contract
from scaling.read.foreign_log import LogChoice, is_trainer_log, looks_timed
from scaling.read.job_log import find_run_dir
from scaling.read.sacct import SacctJob, read_sacct
from scaling.read.symptoms import State
from scaling.runs.records import read_training_metrics
from scaling.runs.run import Run
from scaling.runs.workloads import DEFAULT_WORKLOAD

_LOG = logging.getLogger("scaling")
EXERCISES = "exercises"  # a folder that is read only when it, or one in it, is named
_LOG_SUFFIXES = (".out", ".log", ".txt", ".err")


def find_runs(
    folder: Path,
    now_s: float | None = None,
    choice: LogChoice | None = None,
    warn: Callable[[str], None] = _LOG.warning,
) -> list[Run]:
    """Return every run below a folder, and a never-started one for each unused job script.

    A job folder is one with a `*.slurm` file or a folder of the run contract (log, results,
    gpu_memory, cpu_memory), or one that holds a job's log and its GPU log side by side, or logs
    of a trainer, by what is in them. choice: what the user says of logs of others. A
    record that cannot be read costs its own run a line in `problems`, nothing more. The runs of
    `exercises/` are found only from there, since they are in no other table. warn: is told of each
    folder that cannot be read. Raises UserError when the folder does not exist.
    """
    folder, choice = Path(folder), choice or LogChoice()
    if folder.is_file():
        raise UserError(
            f"{folder} is a file: name the folder that holds it; what is in it says "
            f"python scripts/inspect_log.py {shlex.quote(str(folder))}"
        )
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; run this from the repository's top folder, or name the "
            "folder that holds the job files and their logs"
        )
    found: dict[object, Run] = {}  # a run's files may lie in a folder of their own, found as well
    for place in _find_job_folders(folder, choice, warn):
        for run in _read_job_folder(place, now_s, choice, warn):
            key = run.results_dir.resolve() if run.id else (place, run.script)
            if key not in found or found[key].log_path is None:
                found[key] = run
    return list(found.values())


def read_workdir(folder: Path) -> Run | None:
    """Return the run of a --workdir outside Slurm, which holds its results files flat.

    None when the folder is no such one: it has no run.json.
    """
    if not (folder / "run.json").is_file():
        return None
    settings = contract.read_json(folder / "run.json")
    is_whole = (folder / "RUN_COMPLETE.txt").exists()
    run = Run(
        folder,
        str(settings.get("run_id") or folder.resolve().name),
        results_dir=folder,
        state=State.COMPLETE if is_whole else State.FAILED,
        reason="complete" if is_whole else f"{folder} has no RUN_COMPLETE.txt",
    )
    run.take_settings(settings)
    return run


def order_in_time(runs: list[Run]) -> list[Run]:
    """Return runs oldest first: by start time when each has one, else by job id."""
    if all(run.start for run in runs):
        return sorted(runs, key=lambda run: (run.start, run.job, run.restart))
    return sorted(runs, key=lambda run: (run.job, run.restart))


def describe_others(folder: Path) -> str:
    """Name the command that reads what lies in a folder without a run; '' when nothing does."""
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix == ".json" and path.is_file():
            with suppress(UserError):
                metrics = read_training_metrics(path)
                gpus = metrics.world_size or "N"
                how = f"python scripts/scaling_tables.py --gpu{gpus} {shlex.quote(str(path))}"
                return f"{path} is a metrics file: {how}, and so each of its scales"
        elif path.suffix in _LOG_SUFFIXES and path.is_file() and looks_timed(path):
            how = f"python scripts/inspect_log.py {shlex.quote(str(path))}"
            return f"{path} may be a trainer's log: see {how}"
    return ""


def _find_job_folders(folder: Path, choice: LogChoice, warn: Callable) -> Iterator[Path]:
    def report(error: OSError) -> None:
        warn(f"{error.filename} cannot be read: {error.strerror}")

    for path, names, files in os.walk(folder, onerror=report):
        is_one = set(names) & set(contract.RUN_FOLDERS) or any(n.endswith(".slurm") for n in files)
        if is_one or _is_flat(Path(path)) or _list_trainer_logs(Path(path), choice):
            yield Path(path)
        skipped = (*contract.RUN_FOLDERS, "__pycache__", EXERCISES)
        names[:] = sorted(n for n in names if n not in skipped and not n.startswith("."))


def _read_job_folder(
    folder: Path, now_s: float | None, choice: LogChoice, warn: Callable
) -> list[Run]:
    scripts = sorted(folder.glob("*.slurm"))
    places = {name: _list(folder / name, warn) for name in contract.RUN_FOLDERS}
    logs = _find_logs(folder, places["log"], choice)
    homes = dict.fromkeys(_list_run_ids(places), folder)  # run id -> where its files are
    own_jobs = {contract.split_id(run_id)[0] for run_id in homes}
    for run_id, (_, path) in logs.items():
        if contract.split_id(run_id)[0] not in own_jobs:
            homes |= _follow_log(folder, path, run_id, warn)
    accounts = _read_accounts(places["log"], warn)
    ids = set(homes) | set(logs)
    last_restart: dict[int, int] = {}
    for job, restart in map(contract.split_id, ids):
        last_restart[job] = max(restart, last_restart.get(job, 0))
    runs = []
    for run_id in sorted(ids, key=lambda run_id: (contract.split_id(run_id), run_id)):
        job, restart = contract.split_id(run_id)
        # All restarts share the log `<job id>.out`: alone it is no run beside a restart's.
        if restart != last_restart[job] and run_id not in homes:
            continue
        name, path = logs.get(run_id) or logs.get(str(job)) or (None, None)
        run = Run(
            folder, run_id, name, scripts[0] if scripts else None, path, last_restart[job],
            home=homes.get(run_id), is_alone=len(ids) == 1, choice=choice,
            accounting=accounts.get(str(job)) if restart == last_restart[job] else None,
        )  # fmt: skip
        run.read_records(now_s)
        runs.append(run)
    named = {run.workload for run in runs if run.workload}
    for run in runs if len(named) == 1 else ():  # what failed early does not say it itself
        run.workload = run.workload or min(named)
    return runs or [_not_started(folder, script) for script in scripts]


def _follow_log(folder: Path, path: Path, run_id: str, warn: Callable) -> dict[str, Path]:
    """Return run id -> home of a job whose log names another folder, as RUN_DIR=… sbatch does."""
    try:
        home = find_run_dir(path)
    except UserError:
        return {}  # the run names it among its problems
    job = contract.split_id(run_id)[0]
    places = {name: _list(folder / home / name, warn) for name in contract.RUN_FOLDERS if home}
    found = _list_run_ids(places)
    return {each: folder / home for each in found if contract.split_id(each)[0] == job}


def _read_accounts(logs: list[Path], warn: Callable) -> dict[str, SacctJob]:
    """Return job id -> what sacct said of it, out of `log/sacct*`, where somebody kept that."""
    jobs: dict[str, SacctJob] = {}
    for path in logs:
        if path.name.startswith("sacct"):
            try:
                jobs |= {job.id: job for job in read_sacct(path).jobs}
            except UserError as error:
                warn(str(error))
    return jobs


def _list_run_ids(places: dict[str, list[Path]]) -> set[str]:
    """Return the ids that a job's folders are named by; those of log are in its files' names."""
    names = (path.name for place, paths in places.items() if place != "log" for path in paths)
    return set(filter(contract.RUN_ID.fullmatch, names))


def _not_started(folder: Path, script: Path) -> Run:
    run = Run(folder, "", contract.read_script_job_name(script), script)
    run.take_settings(None)
    place, name = shlex.quote(str(folder)), shlex.quote(script.name)
    run.reason = f"no run yet: cd {place} && sbatch {name}"
    return run


def _find_logs(
    folder: Path, logs: list[Path], choice: LogChoice
) -> dict[str, tuple[str | None, Path]]:
    """Return run id -> (job name or None, log); of several with one id the last by name.

    logs: what is in log/. A log whose name has no job id is one when a trainer's lines are in it;
    its name is its id.
    """
    found = {}
    for path in logs + (_list(folder) if _is_flat(folder) else []):
        if (name := contract.parse_log_name(path.name)) and path.is_file():
            found[name[1]] = (name[0] or None, path)
    for place in (folder / "log", folder):
        for path in [] if found else _list_trainer_logs(place, choice):
            name = contract.parse_log_name(path.with_suffix(".out").name) or (path.stem, path.stem)
            run_id = path.name if name[1] in found else name[1]
            found[run_id] = (name[0] or None, path)
    return found


def _list_trainer_logs(folder: Path, choice: LogChoice) -> list[Path]:
    """List the logs of a folder in which a trainer's lines are, [] when no file there is one.

    Beside one that is, a file that may be another is listed, too: why it gave nothing is then said.
    """
    paths = [path for path in _list(folder) if path.suffix in _LOG_SUFFIXES and path.is_file()]
    paths = [p for p in paths if p.suffix != ".err" or p.with_suffix(".out") not in paths]
    sure = set()
    for path in paths:
        errors = path.with_suffix(".err")  # of a job whose trainer prints with Python's logging
        both = [path, errors] if path.suffix == ".out" and errors.is_file() else [path]
        if any(is_trainer_log(each, choice.format) for each in both):
            sure.add(path)
    if not sure:
        return []
    return [p for p in paths if p in sure or contract.parse_log_name(p.name) or looks_timed(p)]


def _is_flat(folder: Path) -> bool:
    """Whether a folder has a job's log and a GPU's beside it: an older workshop's run."""
    has_log = any(contract.parse_log_name(path.name) for path in folder.glob("*.out"))
    return has_log and any(
        contract.find_node_files(place, "gpu_memory") for place in (folder, folder / "gpu_memory")
    )


def _list(folder: Path, warn: Callable = lambda _: None) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            warn(f"{folder} cannot be read: {error.strerror}")
        return []


# ---- Choosing: the run that stands for a scale -----------------------------------------------

DEFAULT_GPUS_PER_NODE = 2  # of the committed multi-node jobs

Scale = tuple[int, int]  # nodes, GPUs per node


@dataclass(frozen=True)
class Choice:
    """run: whose numbers stand in the row, None when no run has any. reason: why it is None.

    latest_log: of the run that `reason` is about. later: a younger run at the same scale that
    is not shown, in words.
    """

    run: Run | None
    reason: str | None = None
    latest_log: Path | None = None
    later: str | None = None
    was_started: bool = True  # False: nobody has submitted this scale


def is_of_workload(run: Run, workload: str) -> bool:
    """Whether a run is of that workload, by its run.json, else by the folder that it lies in.

    What says neither is the workshop's, which is TinyImageNet's, unless its log counts no images.
    """
    if run.workload is not None:
        return run.workload == workload
    last = run.attempt.last if run.id and run.settings is None and run.attempt else None
    return workload == "tinyimagenet" and (last is None or last.unit == "img/s")


def is_growing(run: Run) -> bool:
    """Whether the model grew with the GPUs (--growing): such runs compare with each other alone.

    By its run.json; without one, by its job script.
    """
    if run.settings is not None:
        return run.settings.get("scaling_mode") == "growing"
    return run.script is not None and "--growing" in run.script.read_text(errors="replace")


def choose_workload(runs: list[Run], asked: str | None = None) -> str:
    """Return the workload that is asked for, else the default, else the only one that has runs."""
    started = [run for run in runs if run.id]
    others = {run.workload for run in started if run.workload} - {DEFAULT_WORKLOAD}
    if asked or len(others) != 1 or any(is_of_workload(run, DEFAULT_WORKLOAD) for run in started):
        return asked or DEFAULT_WORKLOAD
    return others.pop()


def usual_gpus_per_node(runs: list[Run]) -> int:
    """Return the number of GPUs per node of most multi-node runs and job files."""
    counts = Counter(run.gpus_per_node for run in runs if (run.nodes or 0) > 1)
    counts.pop(None, None)
    return counts.most_common(1)[0][0] if counts else DEFAULT_GPUS_PER_NODE


def has_scale(run: Run, scale: Scale) -> bool:
    """Whether a run is at a scale; of a multi-node run the GPUs per node may be unknown."""
    nodes, gpus_per_node = scale
    if run.nodes is None and run.gpus is not None:  # by a log that names no nodes: noted there
        return scale == (1, run.gpus)
    same_gpus = run.gpus_per_node == gpus_per_node or (nodes > 1 and run.gpus_per_node is None)
    return run.nodes == nodes and same_gpus


def choose(candidates: list[Run], named: list[Run]) -> Choice:
    """Return the run for a row out of those at its scale; `named` are the ones asked for.

    Latest is by start time when each run has one, else by job id.
    """
    started = order_in_time([run for run in candidates if run.id])
    if not started:
        return Choice(None, candidates[0].reason if candidates else None, was_started=False)
    asked = [run for run in started if run in named][-1:]
    latest = (asked or started)[-1]
    usable = [run for run in asked or started if run.is_usable]
    if not usable:
        return Choice(None, latest.account, latest.log_path)
    return Choice(usable[-1], later=None if latest is usable[-1] else latest.account)


def find_strategy(run: Run) -> str:
    """Return a run's strategy; what records none keeps whole replicas, as DDP does."""
    return str((run.settings or {}).get("strategy") or "ddp")


def part_by_strategy(candidates: list[Run], strategy: str) -> tuple[list[Run], list[Run]]:
    """Return (the runs that may stand for a scale, those of other strategies).

    Where none of this strategy is complete, any may.
    """
    same = [run for run in candidates if not run.id or find_strategy(run) == strategy]
    if not any(run.is_usable for run in same):
        return candidates, []
    return same, [run for run in candidates if run not in same]


def resolve_jobs(runs: list[Run], jobs: list[str], scales: set[Scale]) -> list[Run]:
    """Return the runs that job ids name: `12` means the last complete attempt of job 12.

    Raises UserError for an id that is not there, has no row, or whose row is taken.
    """
    named: list[Run] = []
    taken: dict[Scale, str] = {}
    for job in jobs:
        run = _resolve(runs, job)
        scale = next((scale for scale in scales if has_scale(run, scale)), None)
        if scale is None:
            raise UserError(
                f"--job {job}: no row for it ({run.nodes or 'unknown'} nodes × "
                f"{run.gpus_per_node or 'unknown'} GPUs); name a job of a scale in the tables"
            )
        if scale in taken:
            raise UserError(
                f"--job {taken[scale]} and --job {job} are of the same scale; name one of them"
            )
        taken[scale] = job
        named.append(run)
    return named


def _resolve(runs: list[Run], job: str) -> Run:
    attempts = [run for run in runs if run.id and job in (run.id, str(run.job))]
    exact = [run for run in attempts if run.id == job and "." in job]
    usable = [run for run in attempts if run.is_usable]
    if found := (exact or usable or attempts):
        return order_in_time(found)[-1]
    known = ", ".join(run.id for run in order_in_time([run for run in runs if run.id]))
    raise UserError(f"--job {job}: no such run; there are: {known or 'none'}")


# ---- Of a workshop: one clone of the repository per participant, only read -------------------


@dataclass(frozen=True)
class Participant:
    """One participant's clone: `runs` of its experiments/, and a line for each that is unreadable.

    name: of the folder below the root.
    """

    name: str
    folder: Path
    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_participants(root: Path, choice: LogChoice | None = None) -> list[Participant]:
    """Return the clones below a folder, by name; a clone that cannot be read has a problem.

    A clone is a folder of root (or a link to one) with experiments/ in it, or one folder further
    down. Raises UserError when root is no folder, or has none in it.
    """
    if not root.is_dir():
        raise UserError(
            f"--participants {root}: no such folder; name the one that holds the clones"
        )
    try:
        folders = sorted(path for path in root.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise UserError(f"--participants {root}: cannot be read: {error.strerror}") from None
    found = [_read_clone(path, choice) for path in folders if path.is_symlink() or path.is_dir()]
    if not found:
        raise UserError(f"--participants {root}: no folder in it; there is one per participant")
    return found


def _read_clone(folder: Path, choice: LogChoice | None) -> Participant:
    """Read one clone; what is wrong with it concerns nobody else."""
    problems: list[str] = []
    try:
        experiments = _find_experiments(folder)
        runs = find_runs(experiments, choice=choice, warn=problems.append)
        return Participant(folder.name, experiments, runs, problems)
    except (UserError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        return Participant(folder.name, folder, [], [f"{folder} cannot be read: {text}"])


def _find_experiments(folder: Path) -> Path:
    if not folder.exists():  # a link that leads nowhere, or a folder closed to us
        raise UserError("it is not there, or closed to you")
    for path in (folder / "experiments", *sorted(folder.glob("*/experiments"))):
        if path.is_dir():
            return path
    next(folder.iterdir(), None)  # raises where it is closed to us
    raise UserError("no experiments/ in it")
