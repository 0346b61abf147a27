"""Find the runs below a folder: which there are, at which scale, and how each stands."""

import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from common.errors import UserError
from scaling.read import contract
from scaling.read.foreign_log import LogChoice, is_trainer_log, looks_timed
from scaling.read.job_log import find_run_dir
from scaling.read.sacct import SacctJob, read_sacct
from scaling.read.symptoms import State
from scaling.runs.records import read_training_metrics
from scaling.runs.run import Run

_LOG = logging.getLogger("scaling")
EXERCISES = "exercises"  # a folder that is read only when it, or one in it, is named
_LOG_SUFFIXES = (".out", ".log", ".txt", ".err")


def find_runs(
    folder: Path, now_s: float | None = None, choice: LogChoice | None = None
) -> list[Run]:
    """Return every run below a folder, and a never-started one for each unused job script.

    A job folder is one with a `*.slurm` file or a folder of the run contract (log, results,
    gpu_memory, cpu_memory), or one that holds a job's log and its GPU log side by side, or logs
    of a trainer, by what is in them. choice: what the user says of logs of others. A
    record that cannot be read costs its own run a line in `problems`, nothing more. The runs of
    `exercises/` are found only from there, since they are in no other table. Raises UserError when
    the folder does not exist.
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
    for job_folder in _find_job_folders(folder, choice):
        for run in _read_job_folder(job_folder, now_s, choice):
            key = run.results_dir.resolve() if run.id else (job_folder, run.script)
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


def describe_no_run(folder: Path, script_name: str) -> str:
    """Return `no run yet: cd … && sbatch …`, ready to be pasted into a shell."""
    return f"no run yet: cd {shlex.quote(str(folder))} && sbatch {shlex.quote(script_name)}"


def _find_job_folders(folder: Path, choice: LogChoice) -> Iterator[Path]:
    def report(error: OSError) -> None:
        _LOG.warning("%s cannot be read: %s", error.filename, error.strerror)

    for path, names, files in os.walk(folder, onerror=report):
        is_one = set(names) & set(contract.RUN_FOLDERS) or any(n.endswith(".slurm") for n in files)
        if is_one or _is_flat(Path(path)) or _list_trainer_logs(Path(path), choice):
            yield Path(path)
        skipped = (*contract.RUN_FOLDERS, "__pycache__", EXERCISES)
        names[:] = sorted(n for n in names if n not in skipped and not n.startswith("."))


def _read_job_folder(folder: Path, now_s: float | None, choice: LogChoice) -> list[Run]:
    scripts = sorted(folder.glob("*.slurm"))
    logs = _find_logs(folder, choice)
    homes = dict.fromkeys(_list_run_ids(folder), folder)  # run id -> where its files are
    own_jobs = {contract.split_id(run_id)[0] for run_id in homes}
    for run_id, (_, path) in logs.items():
        job = contract.split_id(run_id)[0]
        if job not in own_jobs:  # RUN_DIR=… sbatch … puts all but the log elsewhere
            homes |= _follow_log(folder, path, job)
    accounts = _read_accounts(folder)
    ids = set(homes) | set(logs)
    last_restart: dict[int, int] = {}
    for job, restart in map(contract.split_id, ids):
        last_restart[job] = max(restart, last_restart.get(job, 0))
    runs = []
    for run_id in sorted(ids, key=contract.split_id):
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


def _follow_log(folder: Path, path: Path, job: int) -> dict[str, Path]:
    """Return run id -> home of a job whose log names another folder."""
    try:
        home = find_run_dir(path)
    except UserError:
        return {}  # the run names it among its problems
    found = _list_run_ids(folder / home) if home else ()
    return {run_id: folder / home for run_id in found if contract.split_id(run_id)[0] == job}


def _read_accounts(folder: Path) -> dict[str, SacctJob]:
    """Return job id -> what sacct said of it, out of `log/sacct*`, where somebody kept that."""
    jobs: dict[str, SacctJob] = {}
    for path in _list(folder / "log"):
        if path.name.startswith("sacct"):
            try:
                jobs |= {job.id: job for job in read_sacct(path).jobs}
            except UserError as error:
                _LOG.warning("%s", error)
    return jobs


def _list_run_ids(folder: Path) -> set[str]:
    return {
        path.name
        for name in contract.RUN_FOLDERS[1:]
        for path in _list(folder / name)
        if contract.RUN_ID.fullmatch(path.name)
    }


def _not_started(folder: Path, script: Path) -> Run:
    run = Run(folder, "", contract.read_script_job_name(script), script)
    run.take_settings(None)
    run.reason = describe_no_run(folder, script.name)
    return run


def _find_logs(folder: Path, choice: LogChoice) -> dict[str, tuple[str | None, Path]]:
    """Return run id -> (job name or None, log); of several with one id the last by name.

    A log whose name has no job id is one when a trainer's lines are in it; its name is its id.
    """
    paths = _list(folder / "log") + (_list(folder) if _is_flat(folder) else [])
    found = {}
    for path in paths:
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
    sure = {
        path: is_trainer_log(path, choice.format) or _has_errors_log(path, choice) for path in paths
    }
    if not any(sure.values()):
        return []
    return [p for p in paths if sure[p] or contract.parse_log_name(p.name) or looks_timed(p)]


def _has_errors_log(path: Path, choice: LogChoice) -> bool:
    errors = path.with_suffix(".err")
    return path.suffix == ".out" and errors.is_file() and is_trainer_log(errors, choice.format)


def _is_flat(folder: Path) -> bool:
    """Whether a folder has a job's log and a GPU's beside it: an older workshop's run."""
    has_log = any(contract.parse_log_name(path.name) for path in folder.glob("*.out"))
    return has_log and any(
        contract.find_node_files(place, "gpu_memory") for place in (folder, folder / "gpu_memory")
    )


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        _LOG.warning("%s cannot be read: %s", folder, error.strerror)
        return []
