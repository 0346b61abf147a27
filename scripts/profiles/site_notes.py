"""What a cluster's profile says of the jobs below a folder, for the tables, as plain data."""

from collections import Counter
from pathlib import Path

from profiles.repository import Repository


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
