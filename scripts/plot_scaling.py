#!/usr/bin/env python
"""Draw what the runs below a folder measured: speedup, efficiency, throughput; or every chart.

    python scripts/plot_scaling.py                          three charts, from experiments/
    python scripts/plot_scaling.py --all-figures figures    every chart and timeline
    python scripts/plot_scaling.py 1/training_metrics.json 4/training_metrics.json
    python scripts/plot_scaling.py --single workdir_single --multi workdir_2gpu --out figures

The last one compares one device with several from their rank files, in words and two charts.
Without any option, where workdir_single or workdir_2gpu is there, these two are compared and
drawn into submit_figures.
A chart that has no data is named on stderr with the reason.
"""

import argparse
import re
import sys
from pathlib import Path

from common.console import notice, printable, run_command
from common.errors import UserError
from scaling.arguments import (
    DEFAULT_FOLDER,
    add_log_arguments,
    find_chosen_runs,
    make_parser,
)

SINGLE, MULTI, DEVICE_OUT = Path("workdir_single"), Path("workdir_2gpu"), Path("submit_figures")


def main() -> int:
    arguments = parse_arguments()
    try:
        # matplotlib and pandas: not for --help
        paths, left_out = (draw_devices if arguments.single else draw_studies)(arguments)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    for line in left_out:
        notice(f"not drawn: {printable(line)}", sys.stderr)
    print(*paths, sep="\n")
    return 0


def draw_devices(arguments: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Print the comparison of one device with several, and draw its two charts."""
    from scaling.plots import list_device_charts, save_charts
    from scaling.tables import compare_devices, format_comparison

    comparison = compare_devices(arguments.single, arguments.multi)
    charts = list_device_charts(comparison)
    written = save_charts(charts, arguments.out or DEVICE_OUT, arguments.format)
    print(format_comparison(comparison))
    return written


def draw_studies(arguments: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Draw each workload's study; with several, each into a folder of its name."""
    from scaling.plots import MAIN, list_charts, list_left_out, list_run_charts, save_charts
    from scaling.runs import make_metrics_studies, make_studies

    files = [path for path in arguments.paths if path.is_file()]
    if len(arguments.paths) > 1 and len(files) < len(arguments.paths):
        raise UserError("name one folder, or one or several training_metrics.json files")
    if files:
        studies = make_metrics_studies(files)
    else:
        studies = make_studies(find_chosen_runs(arguments, arguments.paths[0]))
    if arguments.workload:
        studies = [study for study in studies if study.workload == arguments.workload]
    if not studies:
        which = f" of workload {arguments.workload}" if arguments.workload else ""
        raise UserError(f"{arguments.paths[0]}: nothing to plot: no complete run{which} in it")
    paths, left_out = [], []
    for study in studies:
        charts = [c for c in list_charts(study) if arguments.all_figures or c.name in MAIN]
        folder = arguments.all_figures or arguments.out or Path("plots")
        folder = folder / name_folder(study.workload) if len(studies) > 1 else folder
        for found in (charts, list_run_charts(study) if arguments.all_figures else ()):
            written, missing = save_charts(found, folder, arguments.format)
            paths, left_out = paths + written, left_out + missing
        left_out += list_left_out(study)
    return paths, left_out


def name_folder(workload: str) -> str:
    """Return a workload's name as one folder's: a record may hold any text."""
    return re.sub(r"[^\w-]", "_", workload)[:60] or "unnamed"


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    text = (
        "the folder with the job files and their logs (default: experiments), or "
        "training_metrics.json files"
    )
    add("paths", metavar="PATH", nargs="*", type=Path, help=text)
    text = "the folder for the charts (default: plots; of --single and --multi: submit_figures)"
    add("--out", metavar="DIR", type=Path, help=text)
    add("--all-figures", metavar="DIR", type=Path, help="draw every chart and timeline into DIR")
    text = "png (300 dpi; default), svg or pdf; may be repeated"
    add("--format", choices=("png", "svg", "pdf"), action="append", help=text)
    add("--workload", metavar="W", help="only this workload's charts (default: each one's)")
    text = "the workdir of a run on one device (default, with --multi: workdir_single)"
    add("--single", metavar="DIR", type=Path, help=text)
    text = "the workdir of a run on several devices (default, with --single: workdir_2gpu)"
    add("--multi", metavar="DIR", type=Path, help=text)
    add_log_arguments(parser)
    arguments = parser.parse_args()
    arguments.format = arguments.format or ["png"]
    is_bare = len(sys.argv) == 1 and (SINGLE.exists() or MULTI.exists())
    if arguments.single or arguments.multi or is_bare:
        if arguments.paths or arguments.all_figures or arguments.workload:
            parser.error("--single and --multi go with --out and --format alone")
        arguments.single = arguments.single or SINGLE
        arguments.multi = arguments.multi or MULTI
    arguments.paths = arguments.paths or [DEFAULT_FOLDER]
    return arguments


if __name__ == "__main__":
    run_command(main)
