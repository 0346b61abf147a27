"""scaling_tables.py --from-csv: the fixed-work table of a paper's numbers, or of typed ones."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from filled_tables import call, parse_markdown, write_seven_scales
from run_folders import put
from scaling.tables import make_csv_table, read_csv_table
from scaling.tables.from_csv import find_columns

PLAIN = "gpus,tokens/s\n1,29600.05\n2,57289.31\n4,100791.44\n"


def from_csv(*options: object):
    return call("scaling_tables", "--from-csv", *options)


def read(tmp_path: Path, text: str, **options: object):
    return make_csv_table(read_csv_table(put(tmp_path / "t.csv", text), **options))


def column(table, name: str) -> list[str]:
    return [row[name].text for row in table.rows]


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("gpus,tokens/s", ("gpus", "tokens/s", None)),
        (
            "GPUs,Tokens/sec (global),Wall time (s)",
            ("GPUs", "Tokens/sec (global)", "Wall time (s)"),
        ),
        ("#GPUs,images_per_sec", ("#GPUs", "images_per_sec", None)),
        ("num_gpus,throughput_samples_per_sec", ("num_gpus", "throughput_samples_per_sec", None)),
        ("world_size,samples_per_sec", ("world_size", "samples_per_sec", None)),
        ("n_gpus,Throughput [img/s],Speedup vs 1 GPU", ("n_gpus", "Throughput [img/s]", None)),
        ("model,devices,epoch_time_s", ("devices", None, "epoch_time_s")),
        ("numGpus,trainingTime", ("numGpus", None, "trainingTime")),
        ("gpus,loss", None),
    ],
)
def test_columns_are_found_by_their_words(header, found):
    names = header.split(",")
    if found is None:
        with pytest.raises(UserError, match="--throughput COL"):
            find_columns(names, {})
        return
    columns = find_columns(names, {})
    assert (columns.gpus, columns.throughput, columns.time) == found


@pytest.mark.parametrize(
    ("header", "cell"),
    [("tok/s", "29.6k"), ("tok/s", "29600"), ("ktokens/s", "29.6"), ("K tokens/s", "29.6"),
     ("Throughput (K tokens/s)", "29.6"), ("Mtok/s", "0.0296")],
)  # fmt: skip
def test_thousands_of_a_cell_and_of_a_header_count(tmp_path, header, cell):
    table = read(tmp_path, f"gpus,{header}\n1,{cell}\n")
    assert column(table, "throughput_per_s") == ["29600.00"]
    assert table.headers["throughput_per_s"] == "Tokens/sec (global)"


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("GPUs;img/s\n1;700,5\n4;2600,7\n", ["700.50", "2600.70"]),
        ("GPUs;img/s\n1;29.600,05\n4;110.000\n", ["29600.05", "110000.00"]),
        ("GPUs\timg/s\n1\t1024,5\n4\t4,000\n", ["1024.50", "4.00"]),
        ('GPUs,img/s\n1,"29,600.05"\n4,110000\n', ["29600.05", "110000.00"]),
    ],
)
def test_decimals_as_a_cell_says_that_can_be_read_in_one_way(tmp_path, text, rates):
    assert column(read(tmp_path, text, given={"per": "job"}), "throughput_per_s") == rates


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
        "printed 1.95; its own numbers give 1.94",
        None,  # 3.4 is 3.41 with one decimal
    ]
    assert table.rows[1]["efficiency"].note is None
    assert table.rows[2]["efficiency"].note == "printed 99; its own numbers give 85.1 %"
    assert any("of 6 printed speedups and efficiencies 2 are not" in text for text in table.remarks)


def test_rows_of_the_same_gpus_are_repeats(tmp_path):
    table = read(tmp_path, "gpus,img/s\n1,100\n1,102\n2,200\n")
    assert column(table, "throughput_per_s") == ["101.00", "200.00"]
    assert "n = 2 runs" in table.rows[0]["throughput_per_s"].note


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
    done = from_csv(path, "--gpus", "a", "--throughput", "b", "--vary", "c")
    assert parse_markdown(done.stdout)[2][2] == "3.41"
    done = from_csv(path, "--gpus", "a", "--time", "c", "--vary", "b")
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


def test_our_own_csv_is_read_back(tmp_path):
    path = tmp_path / "own.csv"
    runs = write_seven_scales(tmp_path / "runs")
    assert call("fill_tables", runs, "--format", "csv", "-o", path).returncode == 0
    # The baseline stands in both of its tables.
    assert 'choose one with --where "table=multi_gpu"' in from_csv(path).stderr
    done = from_csv(path, "--where", "table=multi_gpu")
    assert [row[1:3] for row in parse_markdown(done.stdout)[1:]] == [
        ["704.90", "1.00"], ["1388.60", "1.97"], ["2750.00", "3.90"], ["5399.50", "7.66"],
    ]  # fmt: skip
    assert "of 8 printed speedups and efficiencies 0 are not what" in done.stdout


# ---- What tables of other people look like ---------------------------------------------------

READ = {
    "Markdown with text around it": (
        "Text\n\n## Results\n\n| GPUs | img/s | Speedup |\n|---|---|---|\n| 1 | 1,024 | 1.00x |\n"
        "| 8 | 7,900 | 7.71x |\n\nmore text\n", {}, "1.00 7.71"),
    "scales in words": (
        "| Configuration | Loss | Throughput |\n|---|---|---|\n| 1 GPU | 0.95 | 43,469 tok/s |\n"
        "| 4 GPUs | 1.41 | 152,142 tok/s |\n", {}, "1.00 3.50"),
    "requests": ("GPUs,Throughput,p95\n1× T4,12 req/s,7\n8× T4,86 req/s,9\n", {}, "1.00 7.17"),
    "hardware in the cell": ("GPUs,img/s\n1 H100,100\n8xH100,760\n", {}, "1.00 7.60"),
    "nodes in the cell": ("GPUs,img/s\n8 (1 node),800\n16 (2 nodes),1560\n", {}, "1.00 1.95"),
    "spread and footnotes": ("GPUs,img/s\n1,400 (3)\n4*,1560 ± 12\n", {}, "1.00 3.90"),
    "per GPU": ("GPUs,tokens/s/GPU\n1,100\n4,95\n", {}, "1.00 3.80"),
    "GPUs per node by option": (
        "nodes,GPUs,img/s\n1,4,400\n2,4,790\n", {"given": {"gpus_per_node": "GPUs"}}, "1.00 1.98"),
    "GPUs in all by option": (
        "nodes,GPUs,img/s\n1,4,400\n2,4,390\n", {"given": {"gpus": "GPUs", "per": "job"}},
        "1.00 0.98"),
    "per GPU by option": ("gpus,tps\n8,100\n64,95\n", {"given": {"per": "gpu"}}, "1.00 7.60"),
    "of the job by option": ("gpus,tps\n8,100\n64,95\n", {"given": {"per": "job"}}, "1.00 0.95"),
    "per node": ("nodes,gpus_per_node,img/s/node\n1,4,100\n2,4,95\n", {}, "1.00 1.90"),
    "nodes with a number": (
        "nodes,img/s\n1,400\n2,790\n", {"given": {"gpus_per_node": 4}}, "1.00 1.98"),
    "the job's beside each GPU's": (
        "GPUs,tokens/s,tokens/s/GPU\n1,100,100\n2,190,95\n", {}, "1.00 1.90"),
    "decimal commas": ("GPUs;img/s\n1;100,5\n4;380,25\n", {"decimal": "comma"}, "1.00 3.78"),
    "decimals by option": ("GPUs;img/s\n1;1,024\n4;4,000\n", {"decimal": "point"}, "1.00 3.91"),
    "German thousands": ("GPUs;img/s\n1;1.024,5\n4;4.000\n", {"decimal": "comma"}, "1.00 3.90"),
    "thousands in quotes": ('GPUs,img/s\n1,"1,024"\n4,"4,000"\n', {}, "1.00 3.91"),
    "thousands in some cells": ("GPUs,tok/s\n1,950\n4,3.6k\n", {}, "1.00 3.79"),
    "GPUs x nodes": ("GPUs x nodes,img/s\n4x1,100\n4x2,190\n", {}, "1.00 1.90"),
    "a short ruler": ("|GPUs|img/s|\n|-|-|\n|1|950|\n|4|3,700|\n", {}, "1.00 3.89"),
    "a header in a comment": ("# gpus, img/s\n1, 100\n4, 380\n", {}, "1.00 3.80"),
    "words for no number": (
        "GPUs,img/s\n1,100\n2,<N/A>\n4,crashed\n8,0\n16,1000\n", {}, "1.00 — — — 10.00"),
    "no number of one GPU": ("GPUs,img/s\n1,OOM\n2,190\n4,360\n", {}, "— 1.00 1.89"),
    "weak scaling": ("GPUs,Global batch,img/s\n1,32,100\n4,128,380\n",
                     {"vary": ["Global batch"]}, "1.00 3.80"),
    "results that vary": ("GPUs,img/s,val loss,Memory (GB)\n1,100,.5,20\n4,380,.6,21\n", {},
                          "1.00 3.80"),
    "a column declared to vary": (
        "TP,GPUs,img/s\n1,1,100\n2,4,380\n", {"vary": ["TP"]}, "1.00 3.80"),
    "one of two throughputs": (
        "GPUs,FP32 (img/s),FP16 (img/s)\n1,10,20\n2,19,39\n",
        {"given": {"throughput": "FP16 (img/s)"}}, "1.00 1.95"),
    "one of two series": (
        "model,GPUs,img/s\na,1,100\nb,1,10\nb,2,18\n", {"where": [("model", "b")]}, "1.00 1.80"),
    "hours and minutes": ("GPUs,Time (h:mm)\n1,8:00\n2,4:06\n", {}, "1.00 1.95"),
    "a time per step, declared": (
        "GPUs,Time per step (ms)\n1,400\n4,110\n", {"given": {"time": "Time per step (ms)"}},
        "1.00 3.64"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "options", "speedups"), READ.values(), ids=READ)
def test_tables_of_other_people(tmp_path, text, options, speedups):
    path = put(tmp_path / "t.csv", text)
    table = read_csv_table(path, **options)
    assert table.counts.is_whole
    assert " ".join(column(make_csv_table(table), "speedup")) == speedups


REFUSED = {
    "GPUs,tokens/s\n8,5762\n128,5300\n": "Say --per gpu or --per job",
    "GPUs,GPU throughput (img/s)\n1,100\n4,380\n": "Say --per gpu or --per job",
    "Model,GPUs,tokens/s\n7b,128,1000\n13b,256,960\n": '--where "Model=7b"',
    "GPUs,lr,img/s\n1,0.1,100\n2,0.2,190\n": '--where "lr=0.1"',
    "GPUs,Batch size,Time (s)\n1,32,100\n4,128,103\n": '--where "Batch size=32"',
    "GPUs,1,2,4\nimg/s,100,190,370\n": "its columns are numbers of GPUs: write one row per scale",
    "GPUs   img/s\n1      100\n4      380\n": "no column of GPUs is found",
    "GPUs,img/s\n1,100\n4,380\nAverage,240\n": "line 4: GPUs is 'Average', not a whole number",
    "GPUs,FP32 (img/s),FP16 (img/s)\n1,10,20\n2,19,38\n": "name one with --throughput COL",
    "model \\\\ nodes * gpus,1*1,1*8\nbert,44.7,137.9\n": "write one row per scale",
    "ZeRO stage,GPUs,tok/s\n1,8,100\n3,16,150\n": '--where "ZeRO stage=1", or say --vary',
    "Cost $,GPUs,seq len,tok/s\n1,8,2k,100\n3,16,8k,150\n": '--where "seq len=2k"',
    "batch_size,gpus,img/s\n32,1,100\n64,1,130\n": '--where "batch_size=32"',
    "params ($B),GPUs,tok/s\n1.3B,8,100\n350M,16,150\n": "--where 'params ($B)=1.3B'",
    "GPUs,img/s\n1 A100,100\n8 H100,760\n": "different series",
    "nodes,GPUs,img/s\n1,4,400\n2,4,790\n": "in all or per node? Say --gpus",
    "nodes,gpus_per_node,GPUs,img/s\n1,4,4,400\n2,4,4,790\n": "2 nodes of 4 GPUs have 8",
    "nodes,img/s\n1,400\n2,790\n": "with 'nodes' name --gpus-per-node N",
    "GPUs;img/s\n1;1024,5\n4;4000.5\n": "a comma parts decimals in some cells",
    "GPUs,ktokens/s\n1,29.6k\n4,110.2\n": "thousands in both",
    "GPUs;img/s\n1;1,024\n4;4,000\n": "in '1,024'? Say --decimal comma or point",
    "GPUs;img/s\n1;1.024\n4;4.000\n": "in '1.024'? Say --decimal comma or point",
    "GPUs,Throughput\n1,2k tokens/s\n4,400 samples/s\n": "throughputs in different units",
    "GPUs,Time per step (ms)\n1,400\n4,110\n": 'say --time "Time per step (ms)"',
    "GPUs,Time\n1,16.9 min\n4,296\n": "times with a unit and times without",
    "GPUs,it/s\n1,10\n4,9.5\n": 'say --throughput "it/s"',
    "GPUs,img/s,tokens/s\n1,10,100\n4,38,390\n": 'choose, as in --throughput "img/s"',
    "GPUs,Time (GPU-hours)\n1,8\n2,9\n": "no column of throughput or time is found",
    "GPUs,Batch,img/s\n1,32,100\n,64,200\n": "line 3: GPUs is ''",
    "GPUs,Throughput,\n,FP32,FP16\n1,100,200\n": "column 3 has no name",
    "Model,1 GPU,4 GPUs\nR50,100,380\n": "write one row per scale",
    "|GPUs|img/s|\n|-|-|\n|1|2|\n\n|GPUs|img/s|\n|--|--|\n|1|2|\n|4|2|\n|--|--|\n": "tables in one",
    "GPUs,img/s\n1,100-120\n4,380\n": "line 2: img/s is '100-120'",
    "GPUs,img/s\n1,100 apples\n4,380\n": "line 2: img/s is '100 apples', and 'apples' is no unit",
    "GPUs,Throughput\n1,1×\n4,~4×\n": "and '×' is no unit of a throughput",
    "GPUs,Throughput (QPS)\n1x A100 (40GB),50\n8x H100 (80GB),500\n": "different series",
    "GPUs,img/s\n1,1.2B\n4,380\n": "line 2: img/s is '1.2B'",
    "GPUs,img/s\n1,100\n999999999999,380\n": "not a whole number of 1 or more",
    "PK\x03\x04": ".xlsx or another zip file: save the sheet as CSV",
    "<html><table>": "HTML",
    "\\begin{tabular}{ll}\nGPUs & img/s \\\\\n": "LaTeX",
    '{"gpus": 1}': "--gpu1 FILE --gpu4 FILE",
}


@pytest.mark.parametrize(("text", "words"), REFUSED.items(), ids=list(REFUSED.values()))
def test_what_is_left_open_is_refused_with_what_settles_it(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ("Scaling\n1,100,100%\n4,393,393%", 0), ("Speedup\n1,100,-\n4,393,3.93", 0),
        ("Efficiency\n1,100,1.0\n4,380,0.95", 0), ("Efficiency\n1,100,100\n4,380,95", 0),
        ("Scaling\n1,100,100%\n4,380,95%", 0), ("Speedup\n8,800,8.0\n16,1560,15.6", 0),
        ("Efficiency\n1,29.6k,1.0\n2,57.3k,0.97", 0), ("Efficiency\n1,100,100%\n4,380,99%", 1),
        ("Speedup\n1,100,baseline\n4,380,4.1x", 1), ("Speedup\n1,100,1\n4,380,x3.8", 0),
    ],
)  # fmt: skip
def test_a_printed_ratio_that_agrees_is_not_called_wrong(tmp_path, rows, wrong):
    table = read(tmp_path, f"GPUs,img/s,{rows}\n")
    assert f"efficiencies {wrong} are not" in table.remarks[-1]


def test_a_unit_stays_what_it_is(tmp_path):
    table = read(tmp_path, "GPUs,time\n1,1017\n4,296\n")
    assert table.headers["wall_s"] == "time (no unit is given)"
    table = read(tmp_path, "GPUs,Throughput (ns/day)\n1,31.1\n2,53.7\n")
    assert table.headers["throughput_per_s"] == "Throughput (ns/day)"
