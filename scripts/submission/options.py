"""What sbatch is told in three places: a script's directives, options behind `--`, the shell.

Options of the command line go before variables of the shell, and these before directives
(sbatch(1), "Input environment variables").
"""

import os
import re
from collections.abc import Iterable

from common.errors import UserError
from common.slurm_time import parse_time
from profiles import Job
from profiles.cluster import SHORT
from profiles.matrix import check_limit

FLAGS = {  # they take no value, or one after = only
    "hold", "wait", "no-kill", "oversubscribe", "requeue", "no-requeue", "exclusive", "contiguous",
    "overcommit", "spread-job", "use-min-nodes", "parsable", "test-only", "reboot", "quiet",
    "verbose",
}  # fmt: skip
# Who pays and where to wait: the tables' job is given these too.
QUEUE = ("account", "partition", "qos", "reservation", "clusters", "constraint", "comment")
LOG = "the tables and --watch read log/<job>_<id>.out; leave it out"
REFUSED = {
    "output": LOG,
    "error": LOG,
    "chdir": "a job starts in its own folder; leave it out, and export RUN_DIR to write elsewhere",
    "wait": "say --watch, before the --",
    "test-only": "say --dry-run, before the --, or: python scripts/doctor.py --probe PROFILE",
    "wrap": "scales are scripts already; leave it out",
    "parsable": "submit.py says it itself; leave it out",
}
# Variables that Slurm's commands read as options, or that a job's own shell has from Slurm.
OF_SLURM = (
    *("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_", "SACCTMGR_"),
)
DEVICES = {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"}
FILL_IN = {f"SBATCH_{name.upper()}": name for name in QUEUE} | {"SLURM_CLUSTERS": "clusters"}
# What a job script takes from the shell that submits it, where somebody has set it.
HANDED_ON = ("REPO_DIR", "RUN_DIR", "DATA_DIR", "CHECKPOINT_DIR", "CACHE_DIR", "SUBMITTED_SOURCES")
OVERRIDING, HARMLESS = {"SLURM_HINT", "SLURM_CLUSTERS"}, {"SBATCH_EXPORT", "SBATCH_DEBUG"}


# ---- Directives of a script ------------------------------------------------------------


def split_head(text: str) -> tuple[str, str]:
    """Split a script at its first command: sbatch reads directives before it only."""
    head = re.split(r"^(?![ \t]*(?:#|$))", text, maxsplit=1, flags=re.MULTILINE)[0]
    return head, text[len(head) :]


def read_directives(text: str) -> dict[str, str]:
    """The options that sbatch sees: long name -> value ("" without one), the last one counts."""
    head, _ = split_head(text)
    lines = re.findall(r"^#SBATCH[ \t]+(-.*?)(?:[ \t]+#.*)?$", head, re.MULTILINE)
    return dict(option for line in lines for option in parse_options(line.split()) if option[0])


# ---- Options of a command line ---------------------------------------------------------


def parse_options(words: list[str]) -> list[tuple[str, str]]:
    """Parse options for sbatch into (long name, value): `-A me`, `-Ame`, `--account=me` alike.

    The name of a word that belongs to none is "": sbatch would take it for the script.
    """
    options: list[tuple[str, str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if re.match(r"--[a-z]", name):
            name = name[2:]
        elif re.match(r"-[A-Za-z]", word):
            name, value = SHORT.get(word[1], word[1]), word[2:]
            equals = value
        else:
            name, equals, value = "", "=", word
        name = complete(name)
        if not equals and name not in FLAGS and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        options.append((name, value))
    return options


def complete(name: str) -> str:
    """The long name that sbatch takes an abbreviation for, of those that are looked at here."""
    known = {*REFUSED, *QUEUE, "job-name", "time", "array", "dependency"}
    found = [full for full in known if len(name) > 2 and full.startswith(name)]
    return found[0] if len(found) == 1 and name not in known else name


def check_options(options: list[tuple[str, str]], jobs: list[Job]) -> None:
    """Refuse options for sbatch with which a job could not keep its contract."""
    for name, value in options:
        if not name:
            raise UserError(f"{value!r} is no option of sbatch: scales stand before the --")
        if name in REFUSED:
            raise UserError(f"--{name} for sbatch: {REFUSED[name]}")
        if name == "job-name" and "/" in value:
            better = value.replace("/", "_")
            raise UserError(
                f'--job-name={value} for sbatch: "/" names a folder that log/ does not have, so '
                f"there would be no log; write --job-name={better}"
            )
        if name in ("time", "time-min"):
            try:
                parse_time(value)
            except ValueError as error:
                raise UserError(f"--{name} for sbatch: {error}; write 02:00:00") from None
    told = dict(options)
    signal = re.search(r"@(\d+)$", told.get("signal", ""))  # its margin, not the profile's
    for job in jobs if told.keys() & {"time", "time-min", "signal"} else []:
        margin_s = int(signal[1]) if signal else job.requeue_margin_s
        for limit in {told.get("time", job.time), told.get("time-min", job.time)}:
            check_limit(job.name, limit, margin_s, "a longer --time")


def keep_queue_options(options: list[tuple[str, str]]) -> list[str]:
    """Keep, of options for sbatch, those that say who pays and where to wait."""
    return [f"--{name}={value}" for name, value in options if name in QUEUE]


# ---- Variables of the shell ------------------------------------------------------------


def keep_environment(script: str | None = None) -> dict[str, str]:
    """This shell's variables, without those that would change what Slurm is asked.

    A shell that is itself a job (Jupyter, VS Code) has `SLURM_*` of its own, which srun reads as
    options in every job that inherits them. Of `SBATCH_*` sbatch is given who pays and where to
    wait, and only where the text `script` leaves it open.
    """
    kept = {"SLURM_CONF", "SLURM_CLUSTERS"} if script is None else {"SLURM_CONF", *fill_in(script)}
    dropped = DEVICES if "SLURM_JOB_ID" in os.environ else ()
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or not (name.startswith(OF_SLURM) or name in dropped)
    }


def fill_in(script: str) -> list[str]:
    """The variables that say who pays and where to wait where the text `script` does not."""
    named = read_directives(script)
    return [n for n, option in FILL_IN.items() if os.environ.get(n) and option not in named]


def hand_on(script: str, options: list[str], told: Iterable[str] = ()) -> list[str]:
    """The option that names the variables a job needs, of a `script` that begins without any.

    told: those that the job is given besides this shell's.
    """
    names = [name for name in HANDED_ON if name in told or os.environ.get(name)]
    given = read_directives(script) | dict(parse_options(options))
    if given.get("export") != "NONE" or not names:
        return []
    return [f"--export={','.join(names)}"]


def list_overrides(script: str, options: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Say which variables of this shell fill in a script, and which override its directives.

    The latter count where a person types sbatch, not in what is submitted from here; `options`
    of the command line go before all of them.
    """
    used, given = fill_in(script), dict(options)
    lines = []
    for name, value in sorted(os.environ.items()):
        if FILL_IN.get(name) in given:
            continue
        shown = f"{name}={value!r} in this shell"
        if name in used:
            lines.append(f"{shown} is used: the job scripts have no --{FILL_IN[name]}")
        elif name in OVERRIDING or (name.startswith("SBATCH_") and name not in HARMLESS):
            lines.append(f"{shown} overrides the job scripts where sbatch is typed: unset {name}")
    return lines
