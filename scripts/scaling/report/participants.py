"""The workshop's page: all participants' runs on one page that needs nothing else."""

from time import gmtime, strftime

from scaling.plots import MAIN, list_charts, make_spread_chart
from scaling.report.page import render_page
from scaling.report.svg import draw_figure
from scaling.report.verdict import Sentence
from scaling.runs.study import count
from scaling.tables import Table, make_participants_tables
from scaling.tables.participants import Workshop

TEMPLATE = "participants.html.j2"
MOST_NAMED = 8


def make_participants_page(workshop: Workshop, source: str, reload_s: int | None = None) -> str:
    """Return the page of a workshop. source: where the clones are, in words.

    reload_s: the page reloads itself after so many seconds.
    """
    tables = make_participants_tables(workshop)
    charts = [make_spread_chart(workshop)]
    if workshop.study is not None:
        charts += [chart for chart in list_charts(workshop.study) if chart.name in MAIN]
    return render_page(TEMPLATE, {
        "folder": source,
        "made_utc": strftime("%Y-%m-%d %H:%M:%S UTC", gmtime()),
        "reload_s": reload_s,
        "verdict": list_sentences(workshop, tables[0]),
        "tables": tables,
        "figures": [draw_figure(chart, "p") for chart in charts if not chart.reason],
    })  # fmt: skip


def list_sentences(workshop: Workshop, progress: Table) -> list[Sentence]:
    """Return what an organiser must know first: progress, slow nodes, who is stuck."""
    done = [row["done"].value for row in progress.rows]
    scales = len(progress.headers) - 2
    whole = sum(each == scales for each in done) if scales else 0
    found = [Sentence("good" if whole == len(done) else "note", (
        f"{whole} of {count(len(done), 'participant')} have completed all {scales} scales; "
        f"{sum(done)} of {len(done) * scales} are done. {sum(each == 0 for each in done)} have "
        "none yet."
    ))]  # fmt: skip
    for host, pct in workshop.slow_hosts.items():
        runs = [row for row in workshop.ratios.itertuples() if host in row.hosts]
        found.append(Sentence("poor", (
            f"{host} is slow: the median of the {count(len(runs), 'run')} on it is {pct:.0f} % of "
            f"equal runs. Leave it out (sbatch --exclude={host}) and tell the site."
        )))  # fmt: skip
    if workshop.study is not None and not workshop.slow_hosts and len(workshop.ratios):
        found.append(Sentence("good", "No node is slow."))
    failed = [
        row["participant"].text
        for row in progress.rows
        if any(row[name].text == "failed" for name in progress.headers)
    ]
    if failed:
        more = f" and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        text = f"The latest job did not end well for: {', '.join(failed[:MOST_NAMED])}{more}."
        found.append(Sentence("fair", text))
    return found + [Sentence("fair", f"{problem}.") for problem in workshop.problems]
