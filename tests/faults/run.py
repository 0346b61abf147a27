"""Inject every fault of faults.py into real Slurm jobs, and see what the jobs say of it.

    python tests/faults/run.py [--only NAME,…] [--quick] [--out DIR]

Each fault meets two jobs: a naive script, which must get it wrong and so shows that the fault was
there, and this project's rendered job. It is right when Slurm's state is, the last five lines of
its log name the cause and what to do, and no process is left 5 s after its end. The result is
fault_matrix.json and fault_matrix.md in --out (default: this folder). Exit status 1: a bar was
missed. It needs what scripts/virtual_cluster.sh needs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
REPO = TESTS.parent
sys.path[:0] = [str(TESTS), str(REPO / "scripts")]

from measures import (  # noqa: E402
    count_corrupt_checkpoints,
    count_lost_epochs,
    equal_parameters,
)

from faults import FAULTS, Fault, preempt, warn  # noqa: E402
from profiles.matrix import load_matrix  # noqa: E402
from slurm_cluster import (  # noqa: E402
    ENDED,
    VirtualSlurm,
    make_checkout,
    shrink_job,
)

SIDE_BY_SIDE = 4  # faults of the quick part, whose jobs have nodes and ports of their own
NAIVE_S = 5
MATRIX = load_matrix(REPO / "experiments/matrix.toml")
SPIRAL = "\n[train_args.spiral]\ntimeout-s = 8\nepochs = {epochs}\ncheckpoint-every = {every}\n"
# What no file that a job leaves may hold: the byte scan is for these values.
SECRETS = {
    name: f"canary-{name.lower()}" for name in ("COMET_API_KEY", "WANDB_API_KEY", "HF_TOKEN")
}
# A trainer that hangs where HANG says; the real one when it is not set.
FAULTY = f"import runpy; runpy.run_path({str(TESTS / 'faulty_spiral.py')!r}, run_name='__main__')\n"


class Cluster(VirtualSlurm):
    """Keeps account of what a fault has started and mounted beside the jobs."""

    def __init__(self, name: str):
        super().__init__(name)
        self.started: list[subprocess.Popen] = []
        self.mounted: list[Path] = []

    def start_on(self, node: str, *command: str) -> None:
        space = ["ip", "netns", "exec", f"vs-{self.name}-{node}"]
        self.started.append(subprocess.Popen([*space, *command]))

    def mount_small(self, folder: Path) -> None:
        folder.mkdir()
        self.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))
        self.mounted.append(folder)

    def tidy(self) -> None:
        while self.started:
            self.started.pop().kill()
        while self.mounted:
            self.run("umount", "--lazy", str(self.mounted.pop()))

    def processes_of(self, job: str) -> dict[int, str]:
        """Those of one job: others may be on the nodes, too."""
        found = {}
        for pid, words in self.processes().items():
            with suppress(OSError):
                if f"SLURM_JOB_ID={job}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    found[pid] = words
        return found

    def end(self, job: str, within_s: float) -> str:
        """The state in which the job ends; one that does not is cancelled and "still running"."""
        deadline = time.monotonic() + within_s
        while (state := self.state(job)) not in ENDED:
            if time.monotonic() > deadline:
                self.run("scancel", "--signal=KILL", "--full", job)
                self.run("scancel", job)
                return "still running"
            time.sleep(0.3)
        return state


# ---- One fault, two jobs -----------------------------------------------------------------


def submit_checked(slurm: Cluster, name: str, jobs: Path, variables: dict[str, str]) -> str:
    """Submit a job by submit.py; returns its id."""
    command = [sys.executable, REPO / "scripts/submit.py", name, "--experiments", jobs, "--yes"]
    done = subprocess.run(
        command, env=slurm.environment | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return re.search(r"submitted \S+ as job (\d+)", done.stdout)[1]


def try_fault(slurm: Cluster, fault: Fault, folder: Path, quick: bool) -> dict:
    """Inject the fault into both jobs; returns the row."""
    row = {"name": fault.name, "what": fault.what}
    if fault.needs:
        return row | {"result": "not injected", "why": f"needs {fault.needs}"}
    repo = make_checkout(folder / "repository", has_torchrun=fault.has_torchrun)
    if fault.real_trainer:
        make_real(repo)
    planned = MATRIX.jobs[fault.job]
    jobs = render(folder, fault.profile, fault.job)
    (folder / "data/train").mkdir(parents=True)
    variables = {"REPO_DIR": str(repo), "DATA_DIR": str(folder / "data"), **SECRETS, **fault.env}
    variables |= fault.prepare(slurm, folder) if fault.prepare else {}
    naive = folder / "naive"
    (naive / "log").mkdir(parents=True)
    shutil.copy(TESTS / "faults/naive.slurm", naive)
    size = (f"--nodes={planned.nodes}", f"--gpus-per-node={planned.gpus_per_node}")
    names = {"ours": (jobs / planned.folder, fault.job, ()), "naive": (naive, "naive", size)}
    began = time.monotonic()
    started = {}
    for who, (place, name, options) in names.items():
        if fault.no_log_folder:
            shutil.rmtree(place / "log")
        if fault.no_log_folder and who == "ours":
            job = submit_checked(slurm, fault.job, jobs, variables)
        else:
            job = slurm.submit(place, *fault.options, *options, **variables)
        started[who] = (job, place / f"log/{name}_{job}.out")
    for who, (job, log) in started.items():
        began = send(slurm, fault, job, log, who) or began
    for who, (job, log) in started.items():
        within_s = fault.within_s
        if who == "naive":  # that it does not end is what is wrong with it
            within_s = min(within_s, 30 if fault.has_torchrun or fault.real_trainer else 20)
            within_s = NAIVE_S if quick else within_s  # it began when ours did, which has ended
        row[who] = judge(slurm, fault, job, log, began, within_s)
    right = row["ours"].pop("right") and row["ours"]["processes_left"] == 0
    row["secrets"] = count_secrets(folder)
    row["injected"] = not row["naive"].pop("right")
    return row | {"result": "right" if right and row["injected"] else "wrong"}


def send(slurm: Cluster, fault: Fault, job: str, log: Path, who: str) -> float | None:
    """Do to the job what the fault does from outside; returns when."""
    if fault.send is None:
        return None
    when = fault.when if who == "ours" else "rank 0 begins"
    try:
        slurm.wait_for(log, when, timeout_s=60 if who == "ours" else 10)
    except AssertionError:
        if who == "ours":
            raise
    sent = time.monotonic()
    with suppress(subprocess.CalledProcessError):  # a naive job may have ended by itself
        fault.send(slurm, job)
    if fault.restarts and (who == "ours" or fault.send is preempt):
        slurm.wait_for_restart(job)
        sent = time.monotonic()
    return sent if who == "ours" else None


def judge(slurm: Cluster, fault: Fault, job: str, log: Path, began: float, within_s) -> dict:
    """How a job ended, what it says in its last five lines, and whether that is right."""
    state = slurm.end(job, within_s)
    took_s = time.monotonic() - began
    deadline = time.monotonic() + 5
    while (left := slurm.processes_of(job)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with suppress(OSError):
            os.kill(pid, 9)
    text = log.read_text(errors="replace") if log.exists() else ""
    last = [line for line in text.splitlines() if line.strip()][-5:]
    says = [bool(re.search(pattern, "\n".join(last))) for pattern in fault.says]
    return {
        "state": state,
        "right": state == fault.state and all(says),
        "missing": [p for p, found in zip(fault.says, says, strict=True) if not found],
        "took_s": round(took_s, 1),
        "processes_left": len(left),
        "last_lines": last,
    }


def count_secrets(folder: Path) -> int:
    """How many files hold one of SECRETS; the checkout is a set of links to this one."""
    values = [value.encode() for value in SECRETS.values()]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(any(value in path.read_bytes() for value in values) for path in files)


def make_real(repo: Path) -> None:
    """Give the checkout the real trainers; train_spiral.py hangs where HANG says."""
    (repo / ".venv/bin/activate").write_text(f"source {REPO}/.venv/bin/activate\n")
    (repo / "scripts/train.py").unlink()
    for path in (REPO / "scripts").iterdir():
        if not (repo / "scripts" / path.name).exists():
            (repo / "scripts" / path.name).symlink_to(path)
    (repo / "scripts/train_spiral.py").unlink()
    (repo / "scripts/train_spiral.py").write_text(FAULTY)


def render(folder: Path, change: tuple[str, str], job: str, epochs=2, every=0) -> Path:
    old, new = change
    text = (TESTS / "profiles/short.toml").read_text() + SPIRAL.format(epochs=epochs, every=every)
    assert old in text
    profile = folder / "short.toml"
    profile.write_text(text.replace(old, new) if old else text)
    command = [sys.executable, REPO / "render.py", "--cluster", profile, "--to", folder / "jobs"]
    subprocess.run([*command, "--only", job], check=True, capture_output=True)
    return folder / "jobs"


# ---- Attempts that add up to one training ------------------------------------------------


def try_requeues(slurm: Cluster, folder: Path, kinds: list) -> dict:
    """Interrupt real trainings, by a warning and by preemption; compare with one undisturbed."""
    repo = make_checkout(folder / "repository", has_torchrun=True)
    make_real(repo)
    name = "spiral_mlp_4gpu"
    # Two ranks: of more, DDP's sums may be in another order in the first step after a restart.
    jobs = render(folder, ("", ""), name, epochs=12, every=10_000)
    place = shrink_job(jobs / MATRIX.jobs[name].folder, gpus=2)
    last, ids = {}, []
    for send in [None, *kinds]:
        job = slurm.submit(place, REPO_DIR=str(repo))
        if send:
            slurm.wait_for(place / f"log/{name}_{job}.out", "Epoch [3/", timeout_s=180)
            send(slurm, job)
            slurm.wait_for_restart(job)
        state = slurm.end(job, 240)
        files = sorted((place / "checkpoints" / job).glob("step_*.pt"))
        last[job] = files[-1] if files else None
        ids.append((job, state))
    first, *others = ids
    equal = [state == "COMPLETED" and equal_parameters(last[first[0]], last[job])
             for job, state in others]  # fmt: skip
    return {"interrupted": len(equal), "equal": sum(equal), "states": [state for _, state in ids]}


# ---- All ---------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAME,…", help="these faults alone, and no measures")
    parser.add_argument("--quick", action="store_true", help="one fault of each kind, few kills")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="for the results")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else []
    if unknown := set(only) - {fault.name for fault in FAULTS}:
        parser.error(f"no fault {', '.join(sorted(unknown))}")
    chosen = [f for f in FAULTS if (f.name in only if only else f.quick or not args.quick)]
    began = time.monotonic()
    slurm = Cluster(os.environ.get("VIRTUAL_CLUSTER_NAME", "faults"))
    slurm.up(nodes=2, gpus=4 * SIDE_BY_SIDE)  # a fault has two jobs of two GPUs per node
    rows, measures = [], {}
    with tempfile.TemporaryDirectory(prefix="faults_") as temporary:
        folder = Path(temporary)
        try:
            kills, saves = (3, 20) if args.quick else (20, 200)
            with ThreadPoolExecutor(SIDE_BY_SIDE if args.quick else 1) as pool:
                tried = pool.map(
                    lambda fault: try_one(slurm, fault, folder / fault.name, args.quick), chosen
                )
                if args.quick and not only:  # they need no Slurm
                    measures |= measure_kills(folder, kills, saves)
                for row in tried:
                    rows.append(row)
                    print(format_row(row), flush=True)
            if not (only or args.quick):
                measures |= measure_kills(folder, kills, saves)
                kinds = [warn, preempt, warn, preempt, warn]
                measures["requeued"] = try_requeues(slurm, folder / "requeued", kinds)
        finally:
            slurm.tidy()
            slurm.control("down")
    took_s = time.monotonic() - began
    bars = check_bars(rows, measures)
    result = {"date": time.strftime("%Y-%m-%d"), "took_s": round(took_s), "bars": bars,
              "measures": measures, "faults": rows}  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "fault_matrix.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "fault_matrix.md").write_text(text := format_matrix(result))
    print(text)
    return 0 if all(bar["held"] for bar in bars) else 1


def measure_kills(folder: Path, kills: int, saves: int) -> dict[str, dict]:
    return {
        "lost_epochs": count_lost_epochs(folder / "kills", kills),
        "corrupt": count_corrupt_checkpoints(folder / "saves", saves),
    }


def try_one(slurm: Cluster, fault: Fault, folder: Path, quick: bool) -> dict:
    """One fault's row; what goes wrong in the trying is not "right"."""
    folder.mkdir()
    try:
        return try_fault(slurm, fault, folder, quick)
    except (AssertionError, OSError, subprocess.CalledProcessError) as error:
        return {"name": fault.name, "what": fault.what, "result": "wrong",
                "why": str(error)[-300:]}  # fmt: skip
    finally:
        if not quick:  # nothing of a quick one is beside its jobs
            slurm.tidy()


def check_bars(rows: list[dict], measures: dict) -> list[dict]:
    """The bars of the project, each with what was measured."""
    tried = [row for row in rows if row["result"] != "not injected"]
    right = sum(row["result"] == "right" for row in tried)
    jobs = [row["ours"] for row in tried if "ours" in row]
    bars = [("right state, cause and fix", f"{right} of {len(tried)}", right == len(tried)),
            ("processes left 5 s after the end", n := sum(j["processes_left"] for j in jobs),
             n == 0),
            ("files with a secret, of good and failed runs",
             s := sum(row.get("secrets", 0) for row in tried), s == 0)]  # fmt: skip
    if lost := measures.get("lost_epochs"):
        bars.append(("epochs lost over kills", f"{lost['lost']} over {lost['kills']}",
                     lost["lost"] == 0))  # fmt: skip
    if corrupt := measures.get("corrupt"):
        bars.append(("corrupt checkpoints over SIGKILLs while saving",
                     f"{corrupt['corrupt']} over {corrupt['kills']}",
                     corrupt["corrupt"] == 0))  # fmt: skip
    if again := measures.get("requeued"):
        equal = again["equal"] == again["interrupted"]
        bars.append(("interrupted trainings with the same parameters, bit for bit",
                     f"{again['equal']} of {again['interrupted']}", equal))  # fmt: skip
    return [{"measure": name, "value": value, "held": held} for name, value, held in bars]


def format_row(row: dict) -> str:
    if "ours" not in row:
        return f"| {row['name']} | {row['what']} | — | {row['result']}: {row['why']} |"
    ours, naive = row["ours"], row["naive"]
    why = "; ".join(filter(None, [
        f"not said: {', '.join(ours['missing'])}" if ours["missing"] else "",
        f"{ours['processes_left']} processes left" if ours["processes_left"] else "",
        "" if row["injected"] else "the naive script got it right",
    ])).replace("|", "\\|")  # fmt: skip
    result = row["result"] + (f" ({why})" if why else "")
    return (
        f"| {row['name']} | {row['what']} | {naive['state']} | {ours['state']} after "
        f"{ours['took_s']} s: {result} |"
    )


def format_matrix(result: dict) -> str:
    lines = [
        f"{result['date']}, a virtual cluster of 2 nodes, {result['took_s'] / 60:.0f} minutes.\n",
        "| fault | what is done | naive script | this project's job |", "|---|---|---|---|",
        *map(format_row, result["faults"]), "", "| measure | value | bar held |", "|---|---|---|",
        *(f"| {b['measure']} | {b['value']} | {'yes' if b['held'] else 'no'} |"
          for b in result["bars"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
