"""A workshop's tables: who has run which scale, how far equal runs differ, which node is slow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import pandas as pd

from common.errors import UserError
from scaling.runs.find import Participant, is_of_workload
from scaling.runs.run import Run, State
from scaling.runs.study import Study, count, make_study
from scaling.tables.table import Cell, Table, make_table, missing, say, show

LEAST_ALIKE = 3  # equal runs, to judge one of them by the others
LEAST_PCT = 5.0  # below the median: less is no outlier, however close the others are
MOST_NAMED = 4  # outliers in a row
MAD_TO_SIGMA = 1.4826  # of a normal distribution
RATIO_COLUMNS = ("participant", "run", "gpus", "config", "label", "hosts", "pct")


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
    ratios: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=RATIO_COLUMNS))
    limit_pct: float = 100 - LEAST_PCT
    slow_hosts: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return [problem for each in self.participants for problem in each.problems]

    @property
    def outliers(self) -> pd.DataFrame:
        """The rows of ratios that are below the limit, the lowest first."""
        return self.ratios[self.ratios["pct"] < self.limit_pct].sort_values("pct")


def make_workshop(participants: Sequence[Participant], workload: str, source: str) -> Workshop:
    """Join all participants' runs to one study, and find the runs and nodes that fall behind.

    A run is an outlier when its throughput is below the median of its equals (same settings and
    scale) by more than 5 % and by more than 3 deviations (1.4826 x the median absolute deviation
    over all runs). A node is slow when the median of the runs on it is that low; runs that a slow
    node took part in say nothing of the others.
    """
    names = {id(run): each.name for each in participants for run in each.runs}
    try:
        runs = [run for each in participants for run in each.runs]
        study = make_study(runs, workload, source=source)
    except UserError:
        return Workshop(participants, workload)
    ratios = study.runs.dropna(subset="throughput_per_s").merge(
        study.configs[["config", "short_label"]], on="config", how="left"
    )
    by_config = ratios.groupby("config")["throughput_per_s"]
    sources = [study.sources[at] for at in ratios["run"]]
    ratios = ratios.assign(
        participant=[names[id(run)] for run in sources],
        label=ratios["short_label"],
        hosts=[_list_hosts(run) for run in sources],
        pct=ratios["throughput_per_s"] / by_config.transform("median") * 100,
    )
    ratios = ratios[by_config.transform("size") >= LEAST_ALIKE][[*RATIO_COLUMNS]]
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


def make_progress(workshop: Workshop) -> Table:
    """Return a row per participant and a column per scale: the throughput of the latest run."""
    study, everyone = workshop.study, workshop.participants
    known = [] if study is None else study.runs.dropna(subset="throughput_per_s").itertuples()
    rates = {id(study.sources[row.run]): row.throughput_per_s for row in known}
    behind = {id(study.sources[row.run]): row.pct for row in workshop.outliers.itertuples()}
    ours = [(each.name, run) for each in everyone for run in each.runs
            if is_of_workload(run, workshop.workload)]  # fmt: skip
    scales = {(run.nodes, run.gpus_per_node) for _, run in ours if run.nodes and run.gpus_per_node}
    scales = sorted(scales, key=lambda scale: (scale[0] * scale[1], scale))
    # A complete run stands before what is not, a later one before an earlier.
    ours.sort(key=lambda each: (id(each[1]) in rates, each[1].job, each[1].restart))
    latest = {(name, run.nodes, run.gpus_per_node): run for name, run in ours if run.id}

    def show_latest(participant: Participant, scale: tuple[int, int]) -> Cell:
        """The throughput of the latest complete run, else how the latest stands."""
        run = latest.get((participant.name, *scale))
        if run is None:
            return missing("not submitted yet")
        if id(run) in rates:
            pct = behind.get(id(run))
            note = None if pct is None else f"outlier: {pct:.0f} % of the median of equal runs"
            return show(rates[id(run)], 1, note)
        is_open = run.state in (State.RUNNING, State.NEVER_STARTED)
        return Cell(None, str(run.state) if is_open else "failed", run.reason)

    def count_done(participant: Participant) -> Cell:
        done = sum(show_latest(participant, scale).value is not None for scale in scales)
        return Cell(done, f"{done} of {len(scales)}")

    columns = {
        "participant": (
            "Participant", lambda each: say(each.name, "; ".join(each.problems) or None)),
        "done": ("Done", count_done),
    }  # fmt: skip
    for nodes, gpus in scales:
        header = (f"{nodes} x " if nodes > 1 else "") + count(gpus, "GPU")
        columns[f"g{gpus}n{nodes}"] = header, partial(show_latest, scale=(nodes, gpus))
    definitions = [
        f"Throughput ({study.unit if study else 'samples/s'}) of the latest complete run, the mean "
        "over its epochs after warm-up. 2 x 4 GPUs: 4 on each of 2 nodes.",
        *([] if study else ["No run is complete yet."]),
    ]
    title = f"{count(len(everyone), 'participant')}: who has run which scale"
    return make_table("participants", title, columns, everyone, definitions=definitions,
                      remarks=workshop.problems,
                      keys=[{"folder": each.folder} for each in everyone])  # fmt: skip


def make_spread(workshop: Workshop) -> Table:
    """Return a row per group of equal runs: how many, their median, and the outliers by name."""
    study, pct = workshop.study, workshop.ratios.groupby("config")["pct"].agg(["min", "max"])

    medians = study.runs.groupby("config")["throughput_per_s"].median()
    few, rows = f"fewer than {LEAST_ALIKE} equal runs", []
    for config in study.configs.sort_values(["gpus", "nodes_key", "series"]).itertuples():
        low = workshop.outliers[workshop.outliers["config"] == config.config]
        names = []
        for row in low.head(MOST_NAMED).itertuples():
            hosts = f" on {', '.join(row.hosts)}" if row.hosts else ""
            job = study.sources[row.run].id
            names.append(f"{row.participant} job {job}{hosts}: {row.pct:.0f} %")
        more = [f"{len(low) - MOST_NAMED} more"] if len(low) > MOST_NAMED else []
        series = f" ({config.series_name})" if config.series_name else ""
        rows.append({
            "config": config.short_label + series,
            "runs": config.n_runs,
            "median": medians[config.config],
            "least": show(pct["min"].get(config.config), 1, why=few),
            "most": show(pct["max"].get(config.config), 1, why=few),
            "outliers": "; ".join([*names, *more]) or "none",
        })  # fmt: skip
    columns = {
        "config": "Configuration", "runs": "Runs", "median": (f"Median ({study.unit})", 1),
        "least": "Lowest (%)", "most": "Highest (%)", "outliers": "Outliers",
    }  # fmt: skip
    definitions = (
        "Equal runs have the same settings and scale; lowest and highest are in % of their median. "
        f"Outlier: below {workshop.limit_pct:.1f} %, which is 5 % or 3 deviations (1.4826 x the "
        "median absolute deviation over all runs) below, whichever is more.",
    )
    return make_table("spread", "How far equal runs differ", columns, rows,
                      definitions=definitions)  # fmt: skip


def make_hosts(workshop: Workshop) -> Table:
    """Return a row per node, the slowest first: what the runs on it reach of their equals."""
    slow = workshop.slow_hosts
    on_hosts = workshop.ratios.explode("hosts").dropna(subset="hosts")
    is_slow = on_hosts["hosts"].isin([*slow])
    is_clean = ~on_hosts.index.isin(on_hosts.index[is_slow])  # a run has one index for all hosts
    runs = on_hosts.groupby("hosts").size()
    counted = on_hosts[is_slow | is_clean].groupby("hosts")["pct"]
    hosts = counted.agg(runs="size", median="median", lowest="min").reindex(runs.index)
    hosts["runs"] = hosts["runs"].fillna(runs).astype(int)
    hosts.loc[[*slow], "median"] = [*slow.values()]
    hosts["verdict"] = "as the others"
    hosts.loc[hosts["median"].isna(), "verdict"] = "only in runs with a slow node"
    hosts.loc[[*slow], "verdict"] = "slow"
    hosts["is_other"] = hosts["verdict"] != "slow"
    columns = {
        "host": "Node", "runs": "Runs", "median": ("Median (%)", 1), "lowest": ("Lowest (%)", 1),
        "verdict": "Verdict",
    }  # fmt: skip
    unknown = sum(not hosts for hosts in workshop.ratios["hosts"])
    remarks = [f"{count(unknown, 'run')} without known nodes (no run.json)"] if unknown else []
    definitions = (
        "Median and lowest, over the complete runs on a node, of the throughput in % of the median "
        "of equal runs. What ran across nodes counts for each; a run that a slow node took part in "
        "counts for that node alone.",
    )
    hosts = hosts.sort_values(["is_other", "median", "lowest"])
    rows = hosts.rename_axis("host").reset_index().to_dict("records")
    return make_table("hosts", "The nodes", columns, rows, definitions=definitions,
                      remarks=remarks)  # fmt: skip
