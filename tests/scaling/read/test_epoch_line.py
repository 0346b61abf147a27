"""scaling.read.job_log: the line that a trainer prints for each epoch."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_folders import EPOCH_LINE, epoch_line
from scaling.read.job_log import parse_epoch_line, parse_epoch_lines, parse_label

SCORES = [
    f"{of}_{name}" for name in ("accuracy_pct", "perplexity", "bleu") for of in ("train", "val")
]
quick = settings(max_examples=150, deadline=None)

# ---- The epoch line ------------------------------------------------------------------------


def numbers_of(epoch) -> list[str]:
    """An epoch's figures and scores, in the digits of the log."""
    names = ("lr", "train_loss", "val_loss", "throughput_per_s", *SCORES)
    return [str(epoch.get(name)) for name in names if epoch.get(name) is not None]


def test_the_known_line():
    epoch = parse_epoch_line(EPOCH_LINE)
    assert (epoch.epoch, epoch.epochs, epoch.unit) == (3, 3, "img/s")
    assert numbers_of(epoch) == ["0.001000", "5.149", "5.664", "704.9", "2.16", "0.98"]
    assert epoch.get("val_accuracy_pct") == Decimal("0.98")
    assert epoch.get("throughput_per_s") == Decimal("704.9")
    assert epoch.get("train_perplexity") is epoch.get("val_bleu") is None


AROUND = {
    "srun -l": "0: {}",
    "srun -l of many tasks": " 12: {}",
    "torchrun --tee": "[default0]:{}",
    "srun -l and --tee": "3: [default0]:{}",
    "torch": "[rank0]: {}",
    "colours": "\x1b[1;32m{}\x1b[0m",
    "colours inside": "\x1b[1mEpoch\x1b[0m {}",
    "another process before it": "node1:12:12 [0] NCCL INFO comm 0x1{}",
    "another process after it": "{}node2:7:7 [1] NCCL INFO Channel 00",
    "bad UTF-8 is replaced": "\ufffd\ufffd {} \ufffd",
    "spaces": "   {}   ",
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_the_epoch_line_is_found_in(around):
    assert parse_epoch_line(around.format(EPOCH_LINE)) is not None
    assert parse_epoch_line(around.format(EPOCH_LINE)).text == EPOCH_LINE


def test_the_other_workloads_lines():
    perplexity = EPOCH_LINE.replace(
        "Accuracy (train, val): 2.16%, 0.98%", "Perplexity (train, val): 172.26, 288.30"
    ).replace("img/s", "tokens/s")
    epoch = parse_epoch_line(perplexity)
    assert numbers_of(epoch)[4:] == ["172.26", "288.30"]
    assert (epoch.unit, epoch.get("train_accuracy_pct")) == ("tokens/s", None)
    bleu = EPOCH_LINE.replace("Accuracy (train, val): 2.16%, 0.98%", "BLEU (val): 23.4")
    assert parse_epoch_line(bleu.replace("img/s", "samples/s")).get("val_bleu") == Decimal("23.4")


@pytest.mark.parametrize("text", ["nan", "inf", "1e-05", "0.000012", "12"])
def test_a_loss_that_is_no_plain_decimal(text):
    epoch = parse_epoch_line(EPOCH_LINE.replace("5.149", text))
    assert epoch.train_loss == Decimal(text) or (text == "nan" and epoch.train_loss.is_nan())


def test_a_cut_line_is_no_line_at_any_length():
    assert parse_epoch_line(EPOCH_LINE[: EPOCH_LINE.index(" img/s") + len(" img/s")]) is not None
    for size in range(len(EPOCH_LINE)):
        assert parse_epoch_line(EPOCH_LINE[:size]) is None, EPOCH_LINE[:size]


def test_another_processes_words_in_the_line_are_never_a_number():
    noise = " node2:7:7 NCCL INFO Connected 4 rings "
    for at in range(1, len(EPOCH_LINE)):
        epoch = parse_epoch_line(EPOCH_LINE[:at] + noise + EPOCH_LINE[at:])
        if epoch is not None:  # only where the noise parts words, not numbers
            assert numbers_of(epoch)[1:4] == ["5.149", "5.664", "704.9"]
            assert epoch.get("train_accuracy_pct") in (Decimal("2.16"), None)


numbers = st.floats(0, 1e6, allow_nan=False)


@quick
@given(st.integers(1, 999), st.integers(0, 999), numbers, numbers, numbers)
def test_the_epoch_line_round_trips(epoch, more, loss, accuracy, throughput):
    line = (
        f"Epoch [{epoch}/{epoch + more}] LR: 0.001000 | Loss (train, val): {loss:.3f}, 5.664 | "
        f"Accuracy (train, val): {accuracy:.2f}%, 0.98% | Throughput: {throughput:.1f} img/s"
    )
    found = parse_epoch_line(line)
    assert (found.epoch, found.epochs, found.text) == (epoch, epoch + more, line)
    assert str(found.train_loss) == f"{loss:.3f}"
    assert str(found.get("train_accuracy_pct")) == f"{accuracy:.2f}"
    assert str(found.throughput_per_s) == f"{throughput:.1f}"


LABELS = [
    ("0: ", (0,)), (" 12: ", (12,)), ("[default3]:", (3,)), ("[rank1]: ", (1,)),
    ("[1,7]<stdout>:", (7,)),
    ("[4] ", (4,)), ("2: [default1]:", (2, 1)), ("", ()),
    ("node1:12:12 [0] ", ()), ("10:00:00 ", ()),
]  # fmt: skip


@pytest.mark.parametrize(("label", "ranks"), LABELS)
def test_labels(label, ranks):
    assert parse_label(label + EPOCH_LINE) == ranks


def test_two_lines_in_one_and_a_torn_one_before_a_whole_one():
    both = epoch_line(1) + epoch_line(2)
    assert [epoch.epoch for epoch in parse_epoch_lines(both)] == [1, 2]
    torn = epoch_line(1)[:40] + epoch_line(2)
    assert [epoch.epoch for epoch in parse_epoch_lines(torn)] == [2]


SHORT = [  # of a trainer of the reader's own: all but the epoch and the throughput may be missing
    ("Epoch [1/3] Throughput: 704.9 img/s", (None, None, None)),
    ("Epoch [1/3] | Throughput: 704.9 img/s", (None, None, None)),
    ("Epoch [1/3] LR: 0.1 | Throughput: 704.9 img/s", ("0.1", None, None)),
    ("Epoch [1/3] | Loss (train, val): 2.5, 2.7 | Throughput: 704.9 img/s", (None, "2.5", "2.7")),
    ("Epoch [1/3] | Loss: 2.5 | Throughput: 704.9 img/s", (None, "2.5", None)),
    ("Epoch [1/3] | Grad norm: 1.2 | Throughput: 704.9 img/s", (None, None, None)),
]


@pytest.mark.parametrize(("line", "figures"), SHORT)
def test_all_but_epoch_and_throughput_may_be_missing(line, figures):
    epoch = parse_epoch_line(f"0: {line}")
    assert (epoch.epoch, epoch.epochs, str(epoch.throughput_per_s)) == (1, 3, "704.9")
    told = (epoch.get("lr"), epoch.train_loss, epoch.val_loss)
    assert tuple(None if each is None else str(each) for each in told) == figures
    assert [parse_epoch_line(line[:size]) for size in range(len(line))] == [None] * len(line)


def test_any_score_is_read_by_the_name_that_is_printed():
    line = EPOCH_LINE.replace("Accuracy (train, val): 2.16%, 0.98%", "Top-5 F1 (val): 61.5%")
    assert parse_epoch_line(line).get("val_top-5_f1_pct") == Decimal("61.5")
