"""Which table a command was asked for, in which format: the one place where they meet."""

import argparse
from pathlib import Path

from common.errors import UserError
from scaling.tables import grid
from scaling.tables.readme import Site, build_report

FORMATS = ("md", "markdown", "csv", "json", "html", "text")


def make_text(arguments: argparse.Namespace, site: Site) -> str:
    """Return what fill_tables.py prints for its arguments; UserError says why it cannot."""
    if arguments.from_csv:
        return _make_csv_text(arguments)
    if arguments.summary:
        return _make_summary_text(arguments)
    if arguments.fixed_work or arguments.cost:
        return _format_grids(arguments, _make_study_grids(arguments))
    from scaling.tables.report_grids import FORMATS as REPORT_FORMATS
    from scaling.tables.report_grids import make_memory_grid

    report = build_report(
        arguments.folder,
        arguments.job,
        workload=arguments.workload,
        site=site,
        allow_unlike=arguments.allow_unlike,
    )
    if arguments.memory:
        return _format_grids(arguments, [make_memory_grid(report)])
    return REPORT_FORMATS[_name_format(arguments)](report)


def _name_format(arguments: argparse.Namespace) -> str:
    name = arguments.format or "md"
    if name == "text":
        raise UserError("--format text is for --summary; use md, csv, json or html")
    return name


def _format_grids(arguments: argparse.Namespace, grids: list[grid.Grid]) -> str:
    return grid.FORMATS[_name_format(arguments)](grids)


def _read(arguments: argparse.Namespace):
    from scaling.runs.study import read_study

    return read_study(Path(arguments.folder), arguments.workload, arguments.allow_unlike)


def _make_study_grids(arguments: argparse.Namespace) -> list[grid.Grid]:
    from scaling.tables.cost import make_cost
    from scaling.tables.fixed_work import make_fixed_work

    study, grids = _read(arguments), []
    if arguments.fixed_work:
        grids.append(make_fixed_work(study, arguments.basis or "throughput"))
    if arguments.cost:
        grids.append(make_cost(study, arguments.price, arguments.currency))
    return grids


def _make_csv_text(arguments: argparse.Namespace) -> str:
    from scaling.tables.csv_grid import make_csv_grid
    from scaling.tables.csv_table import read_csv_table

    given = {"gpus": arguments.gpus, "throughput": arguments.throughput, "time": arguments.time}
    table = read_csv_table(arguments.from_csv, given, arguments.basis, arguments.where)
    return _format_grids(arguments, [make_csv_grid(table)])


def _make_summary_text(arguments: argparse.Namespace) -> str:
    from scaling.tables.summary import format_summary, list_summary_grids

    study, name = _read(arguments), arguments.format or "text"
    if name in ("csv", "json"):
        return grid.FORMATS[name](list_summary_grids(study))
    text = format_summary(study, arguments.cluster)
    if name == "html":
        return grid.text_to_html(text, "Benchmark results")
    # Four backticks: a name in a log cannot end the block, since a line there is never only these.
    return text if name == "text" else f"````\n{text}````\n"
