"""One table in every format: rounding, notes, and text that no reader's program obeys."""

import csv
import io
import json
from decimal import Decimal

import pandas as pd
import pytest

from scaling import arguments
from scaling.runs.workloads import DEFAULT_WORKLOAD
from scaling.tables import FORMATS, Table, missing, say, show
from scaling.tables.table import draw_text, text_to_html, to_csv, to_html, to_json, to_markdown

HOSTILE = "=cmd()|<script>x</script>|`a`\n"


def make_table(**known: object) -> Table:
    rows = [
        {"config": say("a", "n1"), "rate": show(Decimal("2.675"))},
        {"config": say("b"), "rate": missing("n2")},
        {"config": say("c", "n1"), "rate": show(1.0, why="not there")},
    ]
    return Table("t", "Title", {"config": "Config", "rate": "Rate"}, rows, **known)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("2.675"), "2.68"), (2.665, "2.66"), (7, "7.00"), (0.1 + 0.2, "0.30"),
        (None, "—"), (float("nan"), "—"), (pd.NA, "—"), (float("inf"), "—"), (Decimal("nan"), "—"),
    ],
)  # fmt: skip
def test_a_number_is_rounded_and_what_is_none_has_the_reason(value, text):
    cell = show(value, why="why")
    assert (cell.text, cell.note) == (text, "why" if text == "—" else None)


def test_notes_are_numbered_through_all_tables_of_a_document():
    table = make_table(definitions=("D.",), sources=("S",), remarks=("R",))
    assert to_markdown([table, make_table()]) == (
        "## Title\n\n"
        "| Config |  Rate |\n| :----- | ----: |\n"
        "| a [1]  |  2.68 |\n| b      | — [2] |\n| c [1]  |  1.00 |\n\n"
        "D.\n\nNotes:\n\n- [1] n1\n- [2] n2\n\nSources:\n\n- S\n\n- R\n\n"
        "## Title\n\n"
        "| Config |  Rate |\n| :----- | ----: |\n"
        "| a [1]  |  2.68 |\n| b      | — [2] |\n| c [1]  |  1.00 |\n\n"
        "Notes:\n\n- [1] n1\n- [2] n2\n"
    )


def test_text_has_columns_as_wide_as_their_cells():
    assert draw_text([["A   ", "B"], ["1", "long"], ["22", ""]]) == "A    B\n1    long\n22"
    assert FORMATS["text"]([make_table()]).splitlines()[1:3] == ["Config Rate", "a [1]  2.68"]


@pytest.mark.parametrize(("most", "parts"), [(10, 2), (24, 2), (45, 1)])
def test_a_table_wider_than_it_may_be_is_drawn_in_parts(most, parts):
    """Each begins with the first column; one column beside it may be wider than all may be."""
    row = {"config": say("a"), "rate": say("r" * 20), "loss": say("s" * 20)}
    table = Table("t", "T", {"config": "C", "rate": "R", "loss": "L"}, [row], max_width=most)
    assert [line[:1] for line in FORMATS["text"]([table]).splitlines()] == [
        "T", *["C", "a", "", "C", "a"][: 3 * parts - 1],
    ]  # fmt: skip


def test_numbers_are_numbers_for_programs_and_keys_stand_beside_them():
    table = make_table(keys=[{"job": "1"}, {"job": None}, {"job": "2"}], facts={"epochs": 3})
    described = json.loads(to_json([table]))["tables"][0]
    assert described["epochs"] == 3
    assert described["rows"][1] == {
        "table": "t", "config": "b", "job": None, "rate": None, "notes": {"rate": "n2"},
    }  # fmt: skip
    records = list(csv.DictReader(io.StringIO(to_csv([table]))))
    assert list(records[0]) == ["table", "config", "job", "rate", "notes"]
    assert [record["rate"] for record in records] == ["2.675", "", "1.0"]
    assert records[0]["notes"] == "config: n1"


def test_text_of_logs_is_escaped_for_each_format():
    cell = say(HOSTILE, HOSTILE)
    table = Table("t", HOSTILE, {"a": HOSTILE}, [{"a": cell}], *[(HOSTILE,)] * 3, [{"k": HOSTILE}])
    page = to_html([table], HOSTILE)
    assert "<script>" not in page and page.count("&lt;script&gt;") == 9
    for line in to_markdown([table]).splitlines():
        assert "<" not in line and line.count("|") - line.count("\\|") in (0, 2)
    row = next(csv.reader(io.StringIO(to_csv([table]).split("\n", 1)[1])))
    assert [text[:5] for text in row] == ["t", "'=cmd", "'=cmd", "a: =c"]
    assert json.loads(to_json([table]))["tables"][0]["rows"][0]["a"] == HOSTILE.strip()
    assert "<script>" not in text_to_html(HOSTILE, HOSTILE)


def test_what_the_commands_declare_is_what_the_packages_have():
    assert tuple(FORMATS) == arguments.FORMATS
    assert arguments.DEFAULT_WORKLOAD == DEFAULT_WORKLOAD
