"""scaling_tables.py --from-csv: the fixed-work table of a paper's numbers, or of typed ones."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from filled_tables import call, parse_markdown, write_seven_scales
from run_folders import put
from scaling.tables import make_csv_table, read_csv_table
from scaling.tables.from_csv import find_columns
from scaling.tables.numbers import parse_number, parse_seconds

PLAIN = "gpus,tokens/s\n1,29600.05\n2,57289.31\n4,100791.44\n"


def from_csv(*options: object):
    return call("scaling_tables", "--from-csv", *options)


def read(tmp_path: Path, text: str, **options: object):
    return make_csv_table(read_csv_table(put(tmp_path / "t.csv", text), **options))


def column(table, name: str) -> list[str]:
    return [row[name].text for row in table.rows]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("29600.05", "29600.05"), ("29,600.05", "29600.05"), ("1,234,567", "1234567"),
        ("1.94x", "1.94"), ("1.94 ×", "1.94"), ("97 %", "97"), ("97%", "97"), ("29.6k", "29600"),
        ("1.2 M", "1200000"), ("29600 tokens/s", "29600"), ("100 ± 3", "100"), ("1e3", "1000"),
        ("4 GPUs", "4"), ("2 GCDs", "2"), ("1 GPU", "1"), ("2 G", "2000000000"),
        ("29 600", "29600"), ("29'600.5", "29600.5"), ("**3.41**", "3.41"), ("-1", "-1"),
        ("1/2", None), ("2x4", None), ("", None), ("OOM", None), ("1.2.3", None),
        ("12,34", None), ("nan", None), ("1-2", None),
    ],
)  # fmt: skip
def test_numbers_as_people_type_them(text, value):
    assert parse_number(text) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [("29600,05", "29600.05"), ("29.600,05", "29600.05"), ("29.600", "29600"), ("1,5", "1.5")],
)
def test_decimal_commas(text, value):
    assert parse_number(text, decimal_comma=True) == Decimal(value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:16:57", 1017), ("1-00:00:10", 86410), ("1:30", 90), ("0:00:01.5", Decimal("1.5")),
     ("17", 17), ("16.5 min", 990), ("2 h", 7200), ("5 apples", None),
     ("8m42s", 522), ("1h 2m 3.5s", Decimal("3723.5")), ("16 min 57 sec", 1017), ("2m", 120),
     ("1-02:03", None), ("a:b", None)],
)  # fmt: skip
def test_times_as_people_type_them(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("gpus,tokens/s", ("gpus", "tokens/s", None)),
        (
            "GPUs,Tokens/sec (global),Wall time (s)",
            ("GPUs", "Tokens/sec (global)", "Wall time (s)"),
        ),
        ("#GPUs,images_per_sec", ("#GPUs", "images_per_sec", None)),
        ("num_gpus,throughput_samples_per_sec", None),
        ("world_size,samples_per_sec", ("world_size", "samples_per_sec", None)),
        ("n_gpus,Throughput [img/s],Speedup vs 1 GPU", ("n_gpus", "Throughput [img/s]", None)),
        ("model,devices,epoch_time_s", ("devices", None, "epoch_time_s")),
        ("numGpus,trainingTime", ("numGpus", None, "trainingTime")),
        ("gpus,ktok/s", ("gpus", "ktok/s", None)),
        ("gpus,tokens/s/GPU", None),  # not of all together
    ],
)
def test_columns_are_guessed_by_name(header, found):
    names = header.split(",")
    if found is None:
        with pytest.raises(UserError, match="--throughput COL"):
            find_columns(names, {}, "t.csv")
        return
    columns = find_columns(names, {}, "t.csv")
    assert (columns.gpus, columns.throughput, columns.time) == found


@pytest.mark.parametrize(
    ("header", "cell"),
    [
        ("ktokens/s", "29.6"), ("k tok/s", "29.6"), ("Throughput (K tokens/s)", "29.6"),
        ("throughput [thousand tokens/s]", "29.6"), ("Mtokens/s", "0.0296"), ("tok/s", "29600"),
        ("ktokens/s", "29.6k"),  # the cell says it again
    ],
)  # fmt: skip
def test_thousands_in_a_header_count(tmp_path, header, cell):
    table = read(tmp_path, f"gpus,{header}\n1,{cell}\n")
    assert column(table, "throughput_per_s") == ["29600.00"]
    assert table.headers["throughput_per_s"] == "Tokens/sec (global)"


def test_the_known_numbers(tmp_path):
    table = read(tmp_path, PLAIN)
    assert column(table, "speedup") == ["1.00", "1.94", "3.41"]
    assert column(table, "efficiency") == ["1.00", "0.97", "0.85"]
    assert list(table.headers) == ["gpus", "throughput_per_s", "speedup", "efficiency"]
    assert table.headers["throughput_per_s"] == "Tokens/sec (global)"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ";").replace(".", ","),
        "\ufeff# typed by hand\r\n" + PLAIN.replace("\n", "\r\n"),
        'GPUs , Throughput (tokens/s)\n"1","29,600.05"\n2,"57,289.31"\n4,"100,791.44"\n\n',
        "nodes,gpus_per_node,tokens_per_second\n1,1,29600.05\n1,2,57289.31\n2,2,100791.44\n",
        "# Table 3\n| gpus | tokens/s |\n|-----:|:---|\n| 1 | 29600.05 |\n| 2 | **57289.31** |\n"
        "| 4 | 100791.44 |\n",
        "gpus,tokens/s,time\n1,29600.05,NaN\n2,57289.31,n/a\n4,100791.44,--\n",
        "Nodes x GPUs,tokens/s\n1x1,29600.05\n1 x 2,57289.31\n2×2,100791.44\n",
        "| gpus | tokens/s |\n1|29600.05\n"[2:].replace(" |\n", "\n") + "2|57289.31\n4|100791.44\n",
    ],
)
def test_dialects(tmp_path, text):
    assert column(read(tmp_path, text), "speedup") == ["1.00", "1.94", "3.41"]


@pytest.mark.parametrize(
    ("header", "times"),
    [
        ("Wall time (s)", ("1017.61", "522.01", "296.10")),
        ("time_ms", ("1017610", "522010", "296100")),
        ("elapsed", ("0:16:57.61", "0:08:42.01", "0:04:56.10")),
    ],
)
def test_times_give_the_known_ratios(tmp_path, header, times):
    rows = "\n".join(f"{gpus},{time}" for gpus, time in zip((1, 2, 4), times, strict=True))
    table = read(tmp_path, f"gpus,{header}\n{rows}\n")
    assert column(table, "speedup") == ["1.00", "1.95", "3.44"]
    assert column(table, "wall_s") == ["1017.61", "522.01", "296.10"]


def test_printed_ratios_are_checked(tmp_path):
    table = read(
        tmp_path,
        "gpus,tokens/s,time (s),speedup,efficiency (%)\n1,29600.05,1017.61,1.0x,100\n"
        "2,57289.31,522.01,1.95,96.8\n4,100791.44,296.10,3.4,99\n",
    )
    assert [row["speedup"].note for row in table.rows] == [
        None,
        "printed 1.95; its own numbers give 1.94 (what is printed is by walltime)",
        None,  # 3.4 is 3.41 with one decimal
    ]
    assert table.rows[1]["efficiency"].note is None
    assert table.rows[2]["efficiency"].note == "printed 99; its own numbers give 85.1 %"
    assert any("of 6 printed speedups and efficiencies 2 are not" in text for text in table.remarks)


def test_rows_of_the_same_gpus_are_repeats(tmp_path):
    table = read(tmp_path, "gpus,img/s\n1,100\n1,102\n2,200\n")
    assert column(table, "throughput_per_s") == ["101.00", "200.00"]
    assert "n = 2 runs" in table.rows[0]["throughput_per_s"].note


def test_two_series_are_not_averaged(tmp_path):
    text = "model,gpus,img/s\nresnet,1,100\nresnet,2,190\nbert,1,10\nbert,2,18\n"
    with pytest.raises(UserError, match="--where model=resnet"):
        read(tmp_path, text)
    assert column(read(tmp_path, text, where=[("model", "bert")]), "speedup") == ["1.00", "1.80"]
    with pytest.raises(UserError, match="column 'batch_size'"):
        read(tmp_path, "batch_size,gpus,img/s\n32,1,100\n64,1,130\n")


def test_a_missing_measure_is_a_reason(tmp_path):
    table = read(tmp_path, "gpus,img/s\n1,100\n2,OOM\n4,390\n")
    assert column(table, "speedup") == ["1.00", "—", "3.90"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a line of column names"),
        ("gpus,img/s\n", "a line of column names"),
        ("a,b\n1,2\n", "its columns are a, b; name it with --gpus COL"),
        ("gpus,loss\n1,2\n", "--throughput COL or --time COL"),
        ("gpus,img/s\n1.5,2\n", "line 2: gpus is '1.5', not a whole number"),
        ("gpus,img/s\n1,fast\n", "line 2: img/s is 'fast', not a number above 0"),
        ("gpus,img/s\n1,-2\n", "not a number above 0"),
        ("gpus,img/s\n1,2,3\n", "line 2: 3 cells under 2 column names"),
        ("gpus,gpus\n1,2\n", "two columns are called 'gpus'"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, words):
    done = from_csv(put(tmp_path / "t.csv", text))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr


def test_the_command_takes_names(tmp_path):
    path = put(tmp_path / "t.csv", "a,b,c\n1,29600.05,1017.61\n4,100791.44,296.10\n")
    done = from_csv(path, "--gpus", "a", "--throughput", "b")
    assert parse_markdown(done.stdout)[2][2] == "3.41"
    done = from_csv(path, "--gpus", "a", "--time", "c")
    assert parse_markdown(done.stdout)[2][2] == "3.44"
    assert from_csv(path, "--gpus", "z", "--time", "c").stderr.startswith(
        f"error: {path}: no column 'z' for --gpus; its columns are a, b, c"
    )


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_text("gpus,img/s\n" + text, encoding="utf-8", errors="replace")
    try:
        make_csv_table(read_csv_table(path))
    except UserError as error:
        assert str(path) in str(error)


@given(st.text(max_size=30))
def test_any_cell_is_a_number_or_none(text):
    for comma in (False, True):
        assert isinstance(parse_number(text, comma), Decimal | None)
        assert isinstance(parse_seconds(text, 1, comma), Decimal | None)


def test_our_own_csv_is_read_back(tmp_path):
    path = tmp_path / "own.csv"
    runs = write_seven_scales(tmp_path / "runs")
    assert call("fill_tables", runs, "--format", "csv", "-o", path).returncode == 0
    # The baseline stands in both of its tables.
    assert "Choose one with --where table=multi_gpu" in from_csv(path).stderr
    done = from_csv(path, "--where", "table=multi_gpu")
    assert [row[1:3] for row in parse_markdown(done.stdout)[1:]] == [
        ["704.90", "1.00"], ["1388.60", "1.97"], ["2750.00", "3.90"], ["5399.50", "7.66"],
    ]  # fmt: skip
    assert "of 8 printed speedups and efficiencies 0 are not what" in done.stdout
