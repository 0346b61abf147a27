"""A workshop's tables: who has run which scale, how far equal runs differ, which node is slow."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from common.errors import UserError
from scaling.runs.find import Participant, is_of_workload
from scaling.runs.run import Run, State
from scaling.runs.study import Study, count, make_study
from scaling.tables.table import Cell, Table, missing, say, show

LEAST_ALIKE = 3  # equal runs, to judge one of them by the others
LEAST_PCT = 5.0  # below the median: less is no outlier, however close the others are
MOST_NAMED = 4  # outliers in a row
MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Workshop:
    """What all participants' runs of a workload give.

    study: of all runs together, None while none is complete. ratios: a row per complete run that
    has equals: participant, run (its position in the study), label of its scale, hosts, and pct
    of its equals' median throughput. limit_pct: below it a run is an outlier. slow_hosts: host ->
    median pct of the runs on it, the slowest first.
    """

    participants: Sequence[Participant]
    workload: str
    study: Study | None = None
    ratios: pd.DataFrame = field(default_factory=pd.DataFrame)
    limit_pct: float = 100 - LEAST_PCT
    slow_hosts: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return [problem for each in self.participants for problem in each.problems]


def make_workshop(participants: Sequence[Participant], workload: str, source: str) -> Workshop:
    """Join all participants' runs to one study, and find the runs and nodes that fall behind.

    A run is an outlier when its throughput is below the median of its equals (same settings and
    scale) by more than 5 % and by more than 3 deviations (1.4826 x the median absolute deviation
    over all runs). A node is slow when the median of the runs on it is that low; runs that a slow
    node took part in say nothing of the others.
    """
    runs = [run for each in participants for run in each.runs]
    try:
        study = make_study(runs, workload, source=source)
    except UserError:
        return Workshop(participants, workload)
    frame = study.runs.dropna(subset="throughput_per_s")
    by_config = frame.groupby("config")["throughput_per_s"]
    frame = frame.assign(pct=frame["throughput_per_s"] / by_config.transform("median") * 100)
    frame = frame[by_config.transform("size") >= LEAST_ALIKE]
    names = {id(run): each.name for each in participants for run in each.runs}
    sources = [study.sources[at] for at in frame["run"]]
    titles = study.configs.set_index("config")
    ratios = pd.DataFrame({
        "participant": [names[id(run)] for run in sources],
        "run": frame["run"].to_list(),
        "gpus": frame["gpus"].to_list(),
        "config": frame["config"].to_list(),
        "label": titles["short_label"].reindex(frame["config"]).to_list(),
        "hosts": [_list_hosts(run) for run in sources],
        "pct": frame["pct"].to_list(),
    })  # fmt: skip
    deviation = (ratios["pct"] - 100).abs().median() if len(ratios) else 0.0
    limit_pct = 100 - max(LEAST_PCT, 3 * MAD_TO_SIGMA * deviation)
    slow = find_slow_hosts(ratios, limit_pct)
    return Workshop(participants, workload, study, ratios, limit_pct, slow)


def _list_hosts(run: Run) -> list[str]:
    hosts = (run.settings or {}).get("hosts")
    return list(map(str, hosts)) if isinstance(hosts, list) else []


def find_slow_hosts(ratios: pd.DataFrame, limit_pct: float) -> dict[str, float]:
    """Return host -> median pct of its runs, of those below the limit, the slowest first.

    Whatever a slow node took part in is left out before the next is looked for.
    """
    slow: dict[str, float] = {}
    while len(ratios):
        medians = ratios.explode("hosts").groupby("hosts")["pct"].median()
        if medians.empty or medians.min() >= limit_pct:
            break
        host = medians.idxmin()
        slow[host] = float(medians[host])
        ratios = ratios[[host not in hosts for hosts in ratios["hosts"]]]
    return slow


def make_participants_tables(workshop: Workshop) -> list[Table]:
    """Return who has run what; with complete runs also the spread of equal runs, and the nodes."""
    tables = [make_progress(workshop)]
    if workshop.study is not None:
        tables += [make_spread(workshop), make_hosts(workshop)]
    return tables


# ---- Who has run what --------------------------------------------------------------------------


def make_progress(workshop: Workshop) -> Table:
    """Return a row per participant and a column per scale: the throughput of the latest run."""
    ours = {
        each.name: [run for run in each.runs if is_of_workload(run, workshop.workload)]
        for each in workshop.participants
    }
    scales = sorted(
        {(run.nodes, run.gpus_per_node) for runs in ours.values() for run in runs
         if run.nodes and run.gpus_per_node},
        key=lambda scale: (scale[0] * scale[1], scale),
    )  # fmt: skip
    names = {f"g{gpus}n{nodes}": (nodes, gpus) for nodes, gpus in scales}
    headers = {"participant": "Participant", "done": "Done"} | {
        name: (f"{nodes} x " if nodes > 1 else "") + count(gpus, "GPU")
        for name, (nodes, gpus) in names.items()
    }
    rates, behind = _list_rates(workshop)
    rows = []
    for each in workshop.participants:
        cells = {
            name: _make_cell(ours[each.name], scale, rates, behind) for name, scale in names.items()
        }
        done = sum(cell.value is not None for cell in cells.values())
        note = "; ".join(each.problems) or None
        rows.append({
            "participant": say(each.name, note),
            "done": Cell(done, f"{done} of {len(names)}"), **cells,
        })  # fmt: skip
    unit = workshop.study.unit if workshop.study else "samples/s"
    definitions = (
        f"Throughput ({unit}) of the latest complete run, the mean over its epochs after warm-up. "
        "2 x 4 GPUs: 4 on each of 2 nodes.",
        *([] if workshop.study else ["No run is complete yet."]),
    )
    keys = [{"folder": each.folder} for each in workshop.participants]
    title = f"{count(len(rows), 'participant')}: who has run which scale"
    return Table("participants", title, headers, rows, definitions, workshop.problems, keys=keys)


def _list_rates(workshop: Workshop) -> tuple[dict[int, float], dict[int, float]]:
    """Return the throughput of each run by its id(), and the pct of those that are outliers."""
    if workshop.study is None:
        return {}, {}
    study, ratios = workshop.study, workshop.ratios
    frame = study.runs.dropna(subset="throughput_per_s")
    rates = dict(zip((id(study.sources[at]) for at in frame["run"]), frame["throughput_per_s"],
                     strict=True))  # fmt: skip
    low = ratios[ratios["pct"] < workshop.limit_pct] if len(ratios) else ratios
    return rates, {id(study.sources[row.run]): row.pct for row in low.itertuples()}


def _make_cell(runs: Sequence[Run], scale: tuple, rates: dict, behind: dict) -> Cell:
    """Return the throughput of the latest complete run at a scale, else how the latest stands."""
    at_scale = [run for run in runs if (run.nodes, run.gpus_per_node) == scale and run.id]
    complete = [run for run in at_scale if id(run) in rates]
    if complete:
        run = max(complete, key=lambda run: (run.job, run.restart))
        pct = behind.get(id(run))
        note = None if pct is None else f"outlier: {pct:.0f} % of the median of equal runs"
        return show(rates[id(run)], 1, note)
    if at_scale:
        run = max(at_scale, key=lambda run: (run.job, run.restart))
        is_open = run.state in (State.RUNNING, State.NEVER_STARTED)
        return Cell(None, str(run.state) if is_open else "failed", run.reason)
    return missing("not submitted yet")


# ---- How far equal runs differ -----------------------------------------------------------------


def make_spread(workshop: Workshop) -> Table:
    """Return a row per group of equal runs: how many, their median, and the outliers by name."""
    study, ratios = workshop.study, workshop.ratios
    headers = {
        "config": "Configuration", "runs": "Runs", "median": f"Median ({study.unit})",
        "least": "Lowest (%)", "most": "Highest (%)", "outliers": "Outliers",
    }  # fmt: skip
    rows = []
    configs = study.configs.sort_values(["gpus", "nodes_key", "series"])
    for config in configs.itertuples():
        of_runs = study.runs[study.runs["config"] == config.config]
        equal = ratios[ratios["config"] == config.config] if len(ratios) else ratios
        low = equal[equal["pct"] < workshop.limit_pct].sort_values("pct") if len(equal) else equal
        name = f"{config.short_label} ({config.series_name})" if config.series_name else (
            config.short_label)  # fmt: skip
        few = "" if len(equal) else f"fewer than {LEAST_ALIKE} equal runs"
        rows.append({
            "config": say(name), "runs": say(len(of_runs)),
            "median": show(of_runs["throughput_per_s"].median(), 1, why="no throughput"),
            "least": show(equal["pct"].min() if len(equal) else None, 1, why=few),
            "most": show(equal["pct"].max() if len(equal) else None, 1, why=few),
            "outliers": say(_list_outliers(workshop, low)),
        })  # fmt: skip
    definitions = (
        "Equal runs have the same settings and scale; lowest and highest are in % of their median. "
        f"Outlier: below {workshop.limit_pct:.1f} %, which is 5 % or 3 deviations (1.4826 x the "
        "median absolute deviation over all runs) below, whichever is more.",
    )
    return Table("spread", "How far equal runs differ", headers, rows, definitions)


def _list_outliers(workshop: Workshop, low: pd.DataFrame) -> str:
    """Name the runs of some rows of ratios, the lowest first."""
    names = []
    for row in low.head(MOST_NAMED).itertuples():
        hosts = f" on {', '.join(row.hosts)}" if row.hosts else ""
        job = workshop.study.sources[row.run].id
        names.append(f"{row.participant} job {job}{hosts}: {row.pct:.0f} %")
    more = [f"{len(low) - MOST_NAMED} more"] if len(low) > MOST_NAMED else []
    return "; ".join([*names, *more]) or "none"


def make_hosts(workshop: Workshop) -> Table:
    """Return a row per node, the slowest first: what the runs on it reach of their equals."""
    headers = {"host": "Node", "runs": "Runs", "median": "Median (%)", "lowest": "Lowest (%)",
               "verdict": "Verdict"}  # fmt: skip
    ratios, rows = workshop.ratios, []
    if len(ratios):
        exploded = ratios.explode("hosts").dropna(subset="hosts")
        is_clean = [not (set(hosts) & set(workshop.slow_hosts)) for hosts in ratios["hosts"]]
        clean = ratios[is_clean].explode("hosts").dropna(subset="hosts")
        judged = clean.groupby("hosts")["pct"].agg(["size", "median", "min"])
        for host, pct in workshop.slow_hosts.items():
            own = exploded[exploded["hosts"] == host]["pct"]
            rows.append(_make_host(host, len(own), pct, own.min(), "slow"))
        for row in judged.sort_values(["median", "min"]).itertuples():
            rows.append(_make_host(row.Index, row.size, row.median, row.min, "as the others"))
        for host in sorted(set(exploded["hosts"]) - set(judged.index) - set(workshop.slow_hosts)):
            n = int((exploded["hosts"] == host).sum())
            rows.append(_make_host(host, n, None, None, "only in runs with a slow node"))
    unknown = sum(not hosts for hosts in ratios["hosts"]) if len(ratios) else 0
    remarks = [f"{count(unknown, 'run')} without known nodes (no run.json)"] if unknown else []
    definitions = (
        "Median and lowest, over the complete runs on a node, of the throughput in % of the median "
        "of equal runs. What ran across nodes counts for each; a run that a slow node took part in "
        "counts for that node alone.",
    )
    return Table("hosts", "The nodes", headers, rows, definitions, remarks)


def _make_host(host: str, runs: int, median, lowest, verdict: str) -> dict[str, Cell]:
    why = "all of its runs had a slow node"
    return {
        "host": say(host), "runs": say(runs), "median": show(median, 1, why=why),
        "lowest": show(lowest, 1, why=why), "verdict": say(verdict),
    }  # fmt: skip
