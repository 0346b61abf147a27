"""Any value in a record that tables average: a table, or the package's own error."""

import copy
import json

import pytest

from common.errors import UserError
from metrics_files import metrics, put_json, write_timed_run
from run_folders import put, settings
from scaling.runs import find_runs, make_metrics_study, make_study
from scaling.runs.study import read_metrics_file
from scaling.tables import FORMATS, format_summary, make_cost, make_fixed_work, make_summary_tables

VALUES = (
    None, True, -1, 0, 1.5, 1e308, 10**30, 10**400, float("nan"), float("inf"),
    "", "x", "2", "=cmd()", "<b>|", [], [1], {}, {"a": 1},
)  # fmt: skip


def walk(record: object, path: tuple = ()):
    """Yield the path of each value in a JSON document."""
    items = record.items() if isinstance(record, dict) else ()
    items = enumerate(record) if isinstance(record, list) else items
    for key, value in items:
        yield (*path, key)
        yield from walk(value, (*path, key))


def damage(record: dict, path: tuple, value: object) -> dict:
    damaged = copy.deepcopy(record)
    place = damaged
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return damaged


def print_all(tables: list) -> None:
    for name, write in FORMATS.items():
        text = write(tables)
        assert "<b>" not in text or name in ("json", "csv", "text")


METRICS = metrics(2, [10.0, 20.0, 30.0])


@pytest.mark.parametrize("path", list(walk(METRICS)), ids=lambda path: ".".join(map(str, path)))
def test_any_value_in_a_metrics_file(tmp_path, path):
    base, usable = (1, put_json(tmp_path / "base.json", metrics(1, [10.0, 20.0]))), []
    for number, value in enumerate(VALUES):
        file = put_json(tmp_path / f"{number}.json", damage(METRICS, path, value))
        try:
            read_metrics_file(file)
        except UserError as error:
            assert str(file) in str(error)
        else:
            usable.append((None, file))
    # All as repeats of one scale, and one on its own, another for each path: a study costs 50 ms.
    at = len(str(path)) % max(len(usable), 1)
    for files in (usable, usable[at : at + 1]):
        study = make_metrics_study([base, *files])
        print_all([make_fixed_work(study, basis) for basis in ("throughput", "walltime")])


@pytest.mark.parametrize("path", list(walk(settings(1, 2, "12"))), ids=lambda p: ".".join(p))
def test_any_value_in_run_json(tmp_path, path):
    write_timed_run(tmp_path, 1, 1, "11", "100.0")
    at = len(str(path)) % len(VALUES)  # another value is in the latest run for each path
    for number, value in enumerate([*VALUES[at:], *VALUES[:at]][::3], start=12):
        folder = write_timed_run(tmp_path, 1, 2, str(number), "50.0")
        record = damage(settings(1, 2, str(number)), path, value)
        put(folder / f"results/{number}/run.json", json.dumps(record))
    study = make_study(find_runs(tmp_path))
    assert format_summary(study).startswith("BENCHMARK RESULTS SUMMARY\n")
    print_all([make_fixed_work(study), *make_summary_tables(study), make_cost(study)])
