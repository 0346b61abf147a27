"""A virtual Slurm cluster for tests: start it, submit to it, wait, look at what is left."""

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from in_process import run_script

REPO = Path(__file__).resolve().parent.parent
SCRIPT = REPO / "scripts/virtual_cluster.sh"
TESTS = REPO / "tests"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}


class VirtualSlurm:
    """The cluster called `name`; its folder and namespaces are its own."""

    def __init__(self, name: str):
        self.name = name
        self.environment = os.environ | {"VIRTUAL_CLUSTER_NAME": name}

    def control(self, *args: str) -> subprocess.CompletedProcess:
        """Run scripts/virtual_cluster.sh with `args`."""
        command = ["bash", SCRIPT, *args]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )

    def require(self) -> None:
        """Skip the test, with the reason, where no cluster can run; in CI that is a failure."""
        check = self.control("check")
        if check.returncode != 0:
            give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            give_up(check.stderr.strip())

    def up(self, nodes: int, gpus: int) -> None:
        self.require()
        done = self.control("up", "--nodes", str(nodes), "--gpus", str(gpus))
        assert done.returncode == 0, done.stderr
        settings = self.control("env").stdout
        self.environment |= dict(re.findall(r"export (\w+)=(\S+)", settings))

    def run(self, *command: str, **options) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, **options
        )
        return done.stdout.strip()

    def submit(self, folder: Path, *options: str, **variables: str) -> str:
        """sbatch the one job script in `folder` from there; returns the job's id."""
        (script,) = folder.glob("*.slurm")
        command = ["sbatch", "--parsable", *options, script.name]
        done = subprocess.run(
            command, cwd=folder, env=self.environment | variables,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def state(self, job: str) -> str:
        shown = self.run("scontrol", "show", "job", "--oneliner", job)
        return re.search(r"JobState=(\w+)", shown)[1]

    def wait(self, job: str, timeout_s: float = 240) -> str:
        """Wait until the job has ended; returns its state."""
        deadline = time.monotonic() + timeout_s
        while (state := self.state(job)) not in ENDED:
            assert time.monotonic() < deadline, f"job {job} is still {state} after {timeout_s} s"
            time.sleep(0.3)
        return state

    def wait_for(self, log: Path, text: str, timeout_s: float = 120) -> None:
        """Wait until `text` stands in the job's log."""
        deadline = time.monotonic() + timeout_s
        while not (log.exists() and text in log.read_text()):
            assert time.monotonic() < deadline, f"no {text!r} in {log}"
            time.sleep(0.2)

    def wait_for_restart(self, job: str, timeout_s: float = 180) -> None:
        """Wait until Slurm has queued `job` again; spare it the two minutes that it then waits."""
        deadline = time.monotonic() + timeout_s
        while True:
            shown = self.run("scontrol", "show", "job", "--oneliner", job)
            if "Restarts=1 " in shown and "JobState=PENDING" in shown:
                break
            assert time.monotonic() < deadline, f"{shown}\n{self.log(shown)}"
            time.sleep(0.3)
        # A slurmd takes nothing for this job that was signed as the first attempt ended, and
        # nothing shows when that is over.
        time.sleep(3)
        self.run("scontrol", "update", f"jobid={job}", "starttime=now")

    def wait_until_idle(self, timeout_s: float = 5) -> None:
        """Wait until no process of any job is left on the nodes."""
        deadline = time.monotonic() + timeout_s
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there after {timeout_s} s: {left}"
            time.sleep(0.1)

    def log(self, shown: str) -> str:
        """What the log holds of the job that scontrol has `shown`."""
        path = Path(re.search(r"StdOut=(\S+)", shown)[1])
        return path.read_text() if path.exists() else f"no {path}"

    def processes(self) -> dict[int, str]:
        """Process id -> command line of everything on the nodes but slurmd itself."""
        found = {}
        namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        for space in re.findall(rf"^vs-{self.name}-node\d+", namespaces, re.MULTILINE):
            listed = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
            for pid in map(int, listed.stdout.split()):
                try:
                    words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
                except OSError:  # it ended meanwhile
                    continue
                if words and not words.startswith("slurmd -N"):
                    found[pid] = words
        return found


def make_checkout(folder: Path, has_torchrun: bool = False) -> Path:
    """Make what a job reads of the repository, with tests/standin/train.py as its trainer.

    Its ranks are started by a stand-in, too, unless it has_torchrun: the real one loads PyTorch.
    """
    (folder / "scripts").mkdir(parents=True)
    for name in ("job.sh", "node.sh", "gpus.sh", "job_summary.py", "scaling", "common"):
        (folder / "scripts" / name).symlink_to(REPO / "scripts" / name)
    shutil.copy(TESTS / "standin/train.py", folder / "scripts/train.py")
    make_activate(folder, has_torchrun)
    return folder


def make_activate(folder: Path, has_torchrun: bool) -> None:
    """Let the checkout in `folder` use this one's .venv, and its torchrun or the stand-in's."""
    text = f"source {shlex.quote(str(REPO / '.venv/bin/activate'))}\n"
    if not has_torchrun:
        text += f"PATH={shlex.quote(str(TESTS / 'standin/launcher'))}:$PATH\n"
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").write_text(text)


def copy_checkout(folder: Path) -> Path:
    """Copy what git knows of this checkout, and what it would, as a clone has it."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(listing, cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    return folder


def render_jobs(profile: str | Path, folder: Path, *options: str) -> Path:
    """Render jobs for a profile's file, or one of tests/profiles/ by name, to `folder`."""
    path = profile if isinstance(profile, Path) else TESTS / f"profiles/{profile}.toml"
    done = run_script("render.py", "--cluster", path, "--to", folder, *options)
    assert done.returncode == 0, done.stderr
    return folder


def shrink_job(folder: Path, gpus: int) -> Path:
    """Let the rendered job of four GPUs per node in `folder` be one of fewer, one CPU for each."""
    (script,) = folder.glob("*.slurm")
    text = script.read_text()
    for old in ("--gpus-per-node=4", "--cpus-per-task=4 ", "GPUS_PER_NODE=4 CPUS_PER_TASK=4"):
        assert text.count(old) == 1, old
        text = text.replace(old, old.replace("4", str(gpus)))
    script.write_text(text)
    return folder
