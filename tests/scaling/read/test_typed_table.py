"""scaling.read.typed_table: the numbers that people type, and the words of their headers."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.read.typed_table import find_role, find_unit, parse_number, parse_seconds, split_number


def test_a_unit_stands_behind_its_number():
    assert split_number("29.6k ± 0.3 tokens/s [1]") == (Decimal("29600.0"), "tokens/s")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("29600.05", "29600.05"), ("29,600.05", "29600.05"), ("1,234,567", "1234567"),
        ("1.94x", "1.94"), ("1.94 ×", "1.94"), ("97 %", "97"), ("97%", "97"), ("29.6k", "29600"),
        ("1.2 M", "1200000"), ("29600 tokens/s", "29600"), ("100 ± 3", "100"), ("1e3", "1000"),
        ("4 GPUs", "4"), ("2 GCDs", "2"), ("1 GPU", "1"), ("2 G", "2000000000"),
        ("29 600", "29600"), ("29'600.5", "29600.5"), ("**3.41**", "3.41"), ("-1", "-1"),
        ("1/2", None), ("2x4", None), ("", None), ("OOM", None), ("1.2.3", None),
        ("12,34", None), ("nan", None), ("1-2", None), ("x1.9", "1.9"), ("7.72 x", "7.72"),
        ("393%", "393"), ("400 (3)", "400"), ("400 [^1]", "400"), ("**380**†", "380"),
        ("380 (95%)", "380"), ("~43,469 tok/s", "43469"), ("29.6 ± 0.3 k", "29600"),
        ("400<sup>a</sup>", "400"), ("2^10", None), ("380 (OOM)", None),
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
     ("8m42s", 522), ("1h 2m 3.5s", Decimal("3723.5")), ("2m", 120),
     ("1-02:03", None), ("a:b", None)],
)  # fmt: skip
def test_times_as_people_type_them(text, seconds):
    assert parse_seconds(text) == seconds


@given(st.text(max_size=30))
def test_any_cell_is_a_number_or_none(text):
    for comma in (False, True):
        assert isinstance(parse_number(text, comma), Decimal | None)
        assert isinstance(parse_seconds(text, 1, comma), Decimal | None)


WORDS = [
    ("tokens/s/GPU", "throughput", "gpu"), ("samples_per_second_per_gpu", "throughput", "gpu"),
    ("Throughput per device (samples/s)", "throughput", "gpu"), ("TPS", "throughput", ""),
    ("img/s/node", "throughput", "node"), ("GPU throughput (img/s)", "throughput", "?"),
    ("Throughput (ns/day)", "throughput", ""), ("tokens/min", "throughput", ""),
    ("# GPUs", "gpus", ""), ("gpu_num", "gpus", ""), ("No. of A100s", "gpus", ""),
    ("Nodes x GPUs", "gpus", ""), ("GPUs x Nodes", "gpus", "turned"), ("node_num", "nodes", ""),
    ("FPS", "throughput", ""),
    ("gpu_num_per_node", "gpus_per_node", ""), ("GPUs/node", "gpus_per_node", ""),
    ("Time per step (ms)", "step_time", ""), ("s/it", "step_time", ""), ("it/s", "step_rate", ""),
    ("epoch", "", ""), ("epoch_s", "time", ""), ("wall_s", "time", ""), ("s/epoch", "time", ""),
    ("Time to train (min)", "time", ""), ("Time (GPU-hours)", "", ""), ("CPU time", "", ""),
    ("Speed-up vs 1 GPU", "speedup", ""), ("Scaling Factor", "speedup", ""),
    ("Ideal speedup", "", ""), ("Weak scaling efficiency (%)", "efficiency", ""),
    ("Throughput FP16", "", ""), ("Memory scaling", "", ""), ("Loss", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("header", "role", "per"), WORDS)
def test_the_words_of_a_header(header, role, per):
    assert find_role(header) == (role, per)


@pytest.mark.parametrize(
    ("header", "unit"),
    [
        ("Throughput (ns/day)", "ns/day"), ("Throughput (Gbps)", "Gbps"), ("TPS", "TPS"),
        ("tokens/min", "tokens/min"), ("img/s", "img/s"), ("Throughput", ""),
        ("Throughput (k)", "k"), ("throughput_per_s", ""), ("K tokens/s/GPU", "tokens/s"),
    ],
)  # fmt: skip
def test_a_unit_is_never_invented(header, unit):
    assert find_unit(header) == unit


# Text, options, speedups ("—" where there is none).
