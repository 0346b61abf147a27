"""scaling.read.job_log: epoch lines, what was trained, why it ended, where each line went."""

import random
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_causes import CAUSES, PREEMPTED

from common.errors import UserError
from run_folders import EPOCH_LINE, epoch_line, out_text, parse_epoch_line
from scaling.read.job_log import (
    OTHER_RUN,
    TORN,
    JobLog,
    parse_epoch_lines,
    read_job_log,
)
from scaling.read.text import parse_label

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: str | bytes) -> JobLog:
    path = tmp_path / "ddp_1g1n_12.out"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    log = read_job_log(path)
    assert log.counts.is_whole
    return log


SCORES = [
    f"{of}_{name}" for name in ("accuracy_pct", "perplexity", "bleu") for of in ("train", "val")
]


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
    assert epoch.get("train_loss") == Decimal(text) or (
        text == "nan" and epoch.get("train_loss").is_nan()
    )


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
    assert str(found.get("train_loss")) == f"{loss:.3f}"
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
    told = (epoch.get("lr"), epoch.get("train_loss"), epoch.get("val_loss"))
    assert tuple(None if each is None else str(each) for each in told) == figures
    assert [parse_epoch_line(line[:size]) for size in range(len(line))] == [None] * len(line)


def test_any_score_is_read_by_the_name_that_is_printed():
    line = EPOCH_LINE.replace("Accuracy (train, val): 2.16%, 0.98%", "Top-5 F1 (val): 61.5%")
    assert parse_epoch_line(line).get("val_top-5_f1_pct") == Decimal("61.5")


# ---- The whole log -------------------------------------------------------------------------


def test_totals_and_epochs(tmp_path):
    attempt = read(tmp_path, out_text()).last_attempt
    assert [epoch.epoch for epoch in attempt.epochs] == [1, 2, 3]
    assert {name: str(value) for name, value in attempt.totals.items()} == {
        "total_training_s": "93.1",
        "best_val_loss": "5.664",
        "best_val_accuracy_pct": "0.98",
    }
    assert attempt.has_all_epochs


def test_carriage_returns_bad_bytes_and_a_long_line_hide_nothing(tmp_path):
    bar = b"".join(b"\r%3d%%|####  |" % n for n in range(100))
    content = b"\xff\xfe\x80 not UTF-8\n" + bar + b"\r" + epoch_line(1).encode() + b"\r\n"
    content += b"x" * 3_000_000 + b"\n\0\0" + epoch_line(2).encode() + b"\n"
    content = b"first\n" + content
    assert [e.epoch for e in read(tmp_path, content).last_attempt.epochs] == [1, 2]


def test_colours_hide_no_label(tmp_path):
    lines = [f"{rank}: \x1b[32m{epoch_line(n, loss=5.0 + rank)}\x1b[0m"
             for n in (1, 2, 3) for rank in (0, 1)]  # fmt: skip
    lines += ["0: \x1b[1mTotal training time: 9.0 s\x1b[0m"]
    log = read(tmp_path, "\n".join(lines) + "\n")
    assert not log.is_mixed and log.ranks == {0, 1}
    assert str(log.last_attempt.last.get("train_loss")) == "5.000"
    assert str(log.last_attempt.totals["total_training_s"]) == "9.0"


def test_the_last_number_of_a_growing_log_may_be_cut(tmp_path):
    attempt = read(tmp_path, out_text().split("Best validation acc")[0][:-2]).last_attempt
    assert attempt.totals.get("best_val_loss") is None  # `5.66` of `5.664`
    assert str(attempt.totals["total_training_s"]) == "93.1"


def test_lines_that_speak_of_an_epoch_and_hold_none_are_counted(tmp_path):
    log = read(tmp_path, f"{epoch_line(1)}\nEpoch [2/3] LR: 0.0010node2: hello\n{epoch_line(3)}\n")
    assert log.counts.dropped == {TORN: 1}
    assert [epoch.line_number for epoch in log.last_attempt.epochs] == [1, 3]
    assert not log.last_attempt.has_all_epochs


def test_of_several_runs_in_one_log_the_last_counts(tmp_path):
    log = read(tmp_path, out_text(2, throughput=1.0) + out_text(3, throughput=2.0))
    assert [len(attempt.epochs) for attempt in log.attempts] == [2, 3]
    assert {epoch.throughput_per_s for epoch in log.last_attempt.epochs} == {2.0}
    assert log.attempts[0].totals.get("total_training_s") is None


def test_another_number_of_epochs_is_another_run(tmp_path):
    log = read(tmp_path, out_text(3) + "\n".join(epoch_line(n, 5) for n in (2, 3)) + "\n")
    assert [e.epoch for e in log.last_attempt.epochs] == [2, 3]
    assert not log.last_attempt.has_all_epochs


def test_an_epoch_line_that_the_run_cannot_have_printed_does_not_count(tmp_path):
    path = tmp_path / "ddp_1g1n_12.out"
    path.write_text(f"{out_text(2)}{epoch_line(9999, 9999)}\n{epoch_line(5, 3)}\n")
    for epochs, others in ((3, 2), (None, 1)):
        log = read_job_log(path, epochs=epochs)
        assert log.counts.is_whole and log.counts.ignored[OTHER_RUN] == others
        assert len(log.attempts) == others % 2 + 1
    assert [epoch.epoch for epoch in read_job_log(path, epochs=3).last_attempt.epochs] == [1, 2]


def test_the_results_line_parts_the_attempts(tmp_path):
    lines = ["Results: /x", epoch_line(1), "error: first", "Results: /x", epoch_line(2)]
    log = read(tmp_path, "\n".join(lines) + "\n")
    assert [attempt.cause and attempt.cause.text for attempt in log.attempts] == [
        "error: first", None,
    ]  # fmt: skip
    assert [len(attempt.epochs) for attempt in log.attempts] == [1, 2]
    assert log.attempts[0].cause.excerpt
    text = "Results: /x\nerror: only\nResults: accuracy 9 %\nResults: /y\n"
    assert read(tmp_path, text).last_attempt.cause.text == "error: only"


def test_a_resumed_attempt_inherits_the_epochs_before_it(tmp_path):
    lines = [epoch_line(1), epoch_line(2, throughput=1.0), PREEMPTED.format("PREEMPTION")]
    lines += [epoch_line(2, throughput=2.0), epoch_line(3)]
    log = read(tmp_path, "\n".join(lines) + "\n")
    assert len(log.attempts) == 2
    assert log.last_attempt.has_all_epochs
    assert log.last_attempt.epochs[1].throughput_per_s == 2.0


def test_a_resumed_attempt_does_not_inherit_the_epochs_that_it_repeats(tmp_path):
    lines = [epoch_line(n, 5) for n in (1, 2, 3)] + [PREEMPTED.format("PREEMPTION")]
    log = read(tmp_path, "\n".join([*lines, epoch_line(2, 5)]) + "\n")
    assert [epoch.epoch for epoch in log.last_attempt.epochs] == [1, 2]


def test_a_line_printed_twice_is_one_epoch(tmp_path):
    lines = [f"{prefix}{epoch_line(n)}" for n in (1, 2, 3) for prefix in ("", "[default0]:")]
    log = read(tmp_path, "\n".join(lines) + "\n")
    assert (len(log.attempts), len(log.last_attempt.epochs)) == (1, 3)


def test_a_log_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.out: cannot be read"):
        read_job_log(tmp_path / "gone.out")


def test_cut_at_any_byte_it_gives_the_epochs_that_are_whole(tmp_path):
    text = out_text()
    ends = [text.index(epoch_line(n)) + len(epoch_line(n)) for n in (1, 2, 3)]
    for size in range(0, len(text) + 1, 3):
        found = read(tmp_path, text[:size]).last_attempt.epochs
        assert len(found) == sum(end <= size for end in ends)


def test_places_that_others_look_for(tmp_path):
    lines = [
        "Results: /scratch/me/run",
        "[gpu_memory_log - GPU 0] Peak = 1 MiB, Avg = 1.00 MiB, Mode = 1 MiB",
        "0: [cpu_memory_log] Peak = 4.0 MiB, CPU mean = 1.0 %",
        "said of [gpu_memory_log - GPU 0] in passing",
        "[gpu_memory_log - GPU 0] Peak = 2 MiB, Avg = 2.00 MiB, Mode = 2 MiB",
    ]
    log = read(tmp_path, "\n".join(lines) + "\n")
    assert log.run_dir == Path("/scratch/me/run")
    assert log.memory_lines == {"gpu_memory_log - GPU 0": 5, "cpu_memory_log": 3}
    assert read(tmp_path, out_text()).run_dir is None


def test_the_cause_brings_the_lines_around_it_and_the_log_its_last_ones(tmp_path):
    lines = [f"line {n}" for n in range(1, 41)]
    lines[19] = "0: \x1b[31merror: no data in /data\x1b[0m"
    log = read(tmp_path, "\n".join(lines) + "\n")
    assert (log.last_attempt.cause.line_number, log.last_attempt.cause.text) == (
        20,
        "error: no data in /data",
    )
    assert [number for number, _ in log.last_attempt.cause.excerpt] == list(range(12, 27))
    assert log.last_attempt.cause.excerpt[8] == (20, "error: no data in /data")
    assert log.tail == [
        (n, f"line {n}" if n != 20 else log.last_attempt.cause.text) for n in range(11, 41)
    ]
    many = "".join(f"NCCL WARN error {n}\n{epoch_line(n, 500)}\n" for n in range(1, 500))
    log = read(tmp_path, many)
    assert (log.last_attempt.cause.line_number, [n for n, _ in log.last_attempt.cause.excerpt]) == (
        1,
        list(range(1, 8)),
    )


def test_a_number_in_a_line_may_be_what_it_says(tmp_path):
    """Lines that differ in numbers alone are judged once, but for such a number."""
    quiet = "step 5 of 9\nread 5 items of ancdata, got 7 bytes\n" * 3
    log = read(tmp_path, f"{quiet}RuntimeError: received 0 items of ancdata\n{quiet}")
    assert (log.last_attempt.cause.rule, log.last_attempt.cause.line_number) == ("open-files", 7)
    assert log.counts.ignored.total() == 13
    assert read(tmp_path, quiet).last_attempt.cause is None


def test_what_nccl_says_of_the_network(tmp_path):
    nccl = "node1:12:12 [0] NCCL INFO "
    lines = [
        f"{nccl}NET/IB : No device found.",
        f"{nccl}NET/Socket : Using [0]eth0:10.0.0.1<0>",
        f"{nccl}Using network Socket",
        f"{nccl}Channel 00/0 : 1[0] -> 0[0] [receive] via NET/Socket/0",
        f"{nccl}Channel 01/0 : 1[0] -> 0[0] [send] via NET/Socket/0",
    ]
    log = read(tmp_path, "\n".join(lines) + "\n")
    found = log.transport
    assert (found.says_anything, found.is_socket, bool(found.no_ib)) == (True, True, True)
    assert (found.channels, found.interfaces) == ({"Socket": 2}, {"eth0"})
    assert log.counts.ignored == {"NCCL": 5}
    assert not read(tmp_path, "hello\n").transport.says_anything


LINES = st.one_of(
    st.text(max_size=40),
    st.sampled_from([line for text, _ in CAUSES for line in text.splitlines()]),
    st.sampled_from([EPOCH_LINE, epoch_line(1), EPOCH_LINE[:60], "\x1b[", "\x1b]0;", "Epoch ["]),
)


@quick
@given(st.lists(LINES, max_size=12))
def test_any_text_is_read(tmp_path, lines):
    text = "\n".join(lines)
    log = read(tmp_path, text.encode("utf-8", "surrogatepass"))
    assert len(log.attempts) >= 1


def test_a_big_log_is_read_in_little_memory(tmp_path):
    import tracemalloc

    noise = ("node1:12:12 [0] NCCL INFO Channel 00/02 :    0   1   2   3\n" * 1000).encode()
    path = tmp_path / "ddp_1g1n_12.out"
    with path.open("wb") as file:
        for _ in range(200):  # 12 MB, and one line of 8 MB
            file.write(noise)
        file.write(bytes(random.Random(0).choices(b"abc ", k=8 << 20)) + b"\n")
        file.write(out_text().encode())
    tracemalloc.start()
    assert read_job_log(path).last_attempt.has_all_epochs
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


# ---- Several ranks, runs and launchers ----


def rates(log: JobLog) -> list[list[float]]:
    return [[epoch.throughput_per_s for epoch in attempt.epochs] for attempt in log.attempts]


def printed(*ranks: str, epochs: int = 3) -> str:
    """Each rank prints each epoch, rank by rank; the first rank's rate is 1, the second's 2."""
    lines = [
        rank + epoch_line(epoch, epochs, throughput=float(at))
        for epoch in range(1, epochs + 1)
        for at, rank in enumerate(ranks, start=1)
    ]
    return "\n".join(lines) + "\n"


INTERLEAVED = {
    "srun --label": printed("0: ", "1: "),
    "the lowest rank last": printed("3: ", "0: ", "2: "),
    "torchrun --tee": printed("[default0]:", "[default1]:"),
    "srun --label and --tee": printed("0: [default0]:", "0: [default1]:", "1: [default0]:"),
    "Open MPI": printed("[1,0]<stdout>:", "[1,1]<stdout>:"),
    "printed plainly and by --tee": printed("", "[default0]:"),
}


@pytest.mark.parametrize("name", INTERLEAVED)
def test_of_several_ranks_the_lowest_labelled_one_counts(tmp_path, name):
    log = read(tmp_path, INTERLEAVED[name])
    assert len(log.attempts) == 1
    assert rates(log) == [[2.0] * 3 if "last" in name else [1.0] * 3]
    assert not log.is_mixed


def test_ranks_without_a_label_that_differ_are_mixed(tmp_path):
    assert read(tmp_path, printed("", "")).is_mixed
    assert read(tmp_path, printed("", "", "", "", epochs=2)).is_mixed


NOT_MIXED = {
    "one rank": out_text(),
    "each line twice": "".join(f"{epoch_line(n)}\n{epoch_line(n)}\n" for n in (1, 2, 3)),
    "begun anew after epoch 1": epoch_line(1, throughput=5.0) + "\n" + out_text(),
    "resumed in the middle": f"{epoch_line(1)}\n{epoch_line(2, throughput=5.0)}\n{epoch_line(2)}\n"
    f"{epoch_line(3)}\n",
    "one epoch, run twice": f"{epoch_line(1, 1, 5.0)}\n{epoch_line(1, 1, 6.0)}\n",
}


@pytest.mark.parametrize("text", NOT_MIXED.values(), ids=NOT_MIXED)
def test_what_is_no_mixture(tmp_path, text):
    assert not read(tmp_path, text).is_mixed


SEVERAL_RUNS = {
    "other figures": (out_text(throughput=1.0) + out_text(throughput=2.0), [[1.0] * 3, [2.0] * 3]),
    "the same figures": (out_text(throughput=1.0) * 2, [[1.0] * 3, [1.0] * 3]),
    "three, two of them cut": (
        out_text(1, throughput=1.0) + out_text(2, throughput=2.0) + out_text(throughput=3.0),
        [[1.0], [2.0] * 2, [3.0] * 3],
    ),
    "requeued, resumed": (
        f"{epoch_line(1, throughput=1.0)}\n{PREEMPTED.format('JOB REQUEUE')}\n"
        f"{epoch_line(2, throughput=2.0)}\n{epoch_line(3, throughput=2.0)}\n",
        [[1.0], [1.0, 2.0, 2.0]],
    ),
    "of another length": (out_text(2, 2, 1.0) + out_text(throughput=2.0), [[1.0] * 2, [2.0] * 3]),
}


@pytest.mark.parametrize(("text", "expected"), SEVERAL_RUNS.values(), ids=SEVERAL_RUNS)
def test_several_runs_in_one_log_are_told_apart(tmp_path, text, expected):
    assert rates(read(tmp_path, text)) == expected


def test_an_epoch_that_another_program_speaks_of_is_no_torn_line(tmp_path):
    text = "Epoch [1/3]:  50%|####\nEpoch [1/3], Loss: 0.5\nEpoch [1/3] LR: 0.00\nEpoch [2/\n"
    assert read(tmp_path, text).counts.dropped == {TORN: 2}


def test_totals_of_every_workload(tmp_path):
    text = out_text() + "Best validation perplexity: 172.26\nBest BLEU: 23.40\n"
    attempt = read(tmp_path, text).last_attempt
    assert [str(attempt.totals[f"best_val_{score}"]) for score in ("perplexity", "bleu")] == [
        "172.26",
        "23.40",
    ]
    assert (
        read(tmp_path, text[:-2]).last_attempt.totals.get("best_val_bleu") is None
    )  # `23.4` of `23.40`?


def test_an_endless_log_is_kept_short(tmp_path):
    text = "".join(epoch_line(1, throughput=float(n)) + "\n" for n in range(3000))
    log = read(tmp_path, text)
    assert (len(log.attempts), log.forgotten_attempts) == (1000, 2000)
    assert log.last_attempt.last.throughput_per_s == 2999.0
    many = "".join(f"{epoch_line(n, 25_000)}\n" for n in range(1, 25_001))
    assert len(read(tmp_path, many).last_attempt.by_number) == 20_000
