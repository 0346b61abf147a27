"""1,000 job scripts rendered in memory against string.Template of the same text; render.py --help.

    python tests/benchmarks/render_jobs.py     # the bars are 40 times and 0.3 CPU seconds

Rendering is all that render.py does but writing: matrix, profile and templates loaded once, then
each job planned and rendered. The peer has the finished texts, in which it fills in the values of
the job alone (name, folder, time): the least that any template engine has to do.
"""

import statistics
import subprocess
import sys
import time
from string import Template

from measure import (
    REPO,
    SCRIPTS,
    describe_machine,
    judge,
    parse_options,
    python,
    report,
    run_interleaved,
    run_process,
    summarise,
)

sys.path.insert(0, str(SCRIPTS))
from profiles.repository import Repository

PROFILE = "ibex"
FIELDS = ("name", "folder", "time")


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    count = 50 if options.quick else 1000
    peers = make_peers()
    cases = {
        "render": lambda: timed(lambda: render(count)),
        "string.Template": lambda: timed(lambda: substitute(peers, count)),
    }
    rows = [
        summarise(
            f"{count:,} job scripts, CPU s",
            "<= 40",
            run_interleaved(cases, options.rounds),
            *cases,
            row="12",
        ),
        measure_start("render.py", options.rounds, "12"),
    ]
    check_imports()
    report("render_jobs", rows, describe_machine("jinja2", "pydantic"), options.out)


def timed(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def render(count: int) -> None:
    repository = Repository(REPO)
    names = list(repository.matrix.jobs)
    for number in range(count):
        job = repository.plan(names[number % len(names)], PROFILE)
        repository.render(job, PROFILE)


def make_peers() -> list[tuple[Template, dict[str, str]]]:
    """The rendered text of every job as a string.Template, with the values that make it again."""
    repository, peers = Repository(REPO), []
    for name in repository.matrix.jobs:
        job = repository.plan(name, PROFILE)
        whole = repository.render(job, PROFILE)
        values = {field: str(getattr(job, field)) for field in FIELDS}
        text = whole.replace("$", "$$")
        for field, value in values.items():
            text = text.replace(value, f"${{{field}}}")
        template = Template(text)
        if template.substitute(values) != whole or text.count("${name}") < 1:
            raise SystemExit(f"error: {name}: not the same text")
        peers.append((template, values))
    return peers


def substitute(peers: list[tuple[Template, dict[str, str]]], count: int) -> None:
    for number in range(count):
        template, values = peers[number % len(peers)]
        template.substitute(values)


def measure_start(command: str, rounds: int, row: str = "") -> dict:
    """A row: CPU seconds of a command's --help."""
    words = python(REPO / command, "--help")
    run_process(words)
    taken = [run_process(words).cpu_s for _ in range(rounds)]
    seconds = {"--help": statistics.median(taken)}
    return judge(row, f"{command} --help, CPU s", "<= 0.3", taken) | {"median_s": seconds}


def check_imports() -> None:
    """Fail when --help imports what takes long: torch, pandas, and what render.py needs later."""
    words = [sys.executable, "-X", "importtime", REPO / "render.py", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    if found := loaded & {"torch", "pandas", "numpy", "pydantic", "jinja2"}:
        raise SystemExit(f"error: render.py --help imports {', '.join(sorted(found))}")


if __name__ == "__main__":
    main()
