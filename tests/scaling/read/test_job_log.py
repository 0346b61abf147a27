"""scaling.read.job_log: what was trained, why it ended, and where each line of the log went."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_causes import CAUSES, PREEMPTED

from common.errors import UserError
from run_folders import EPOCH_LINE, epoch_line, out_text
from scaling.read.job_log import OTHER_RUN, TORN, JobLog, read_job_log
from scaling.read.text import LONGEST_LINE_CHARS, read_lines

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: str | bytes) -> JobLog:
    path = tmp_path / "ddp_1g1n_12.out"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    log = read_job_log(path)
    assert log.counts.is_whole
    return log


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
    assert str(log.last_attempt.last.train_loss) == "5.000"
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
    assert read(tmp_path, text).cause.text == "error: only"


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
    assert (log.cause.line_number, log.cause.text) == (20, "error: no data in /data")
    assert [number for number, _ in log.cause.excerpt] == list(range(12, 27))
    assert log.cause.excerpt[8] == (20, "error: no data in /data")
    assert log.tail == [(n, f"line {n}" if n != 20 else log.cause.text) for n in range(11, 41)]
    many = "".join(f"NCCL WARN error {n}\n{epoch_line(n, 500)}\n" for n in range(1, 500))
    log = read(tmp_path, many)
    assert (log.cause.line_number, [n for n, _ in log.cause.excerpt]) == (1, list(range(1, 8)))


def test_a_number_in_a_line_may_be_what_it_says(tmp_path):
    """Lines that differ in numbers alone are judged once, but for such a number."""
    quiet = "step 5 of 9\nread 5 items of ancdata, got 7 bytes\n" * 3
    log = read(tmp_path, f"{quiet}RuntimeError: received 0 items of ancdata\n{quiet}")
    assert (log.cause.rule, log.cause.line_number) == ("open-files", 7)
    assert log.counts.ignored.total() == 13
    assert read(tmp_path, quiet).cause is None


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


def test_no_line_is_longer_than_any_parser_needs(tmp_path):
    path = tmp_path / "long.out"
    path.write_bytes(b"x" * 100_000 + b"\n" + b"y" * 3_000_000 + b"\nz")
    lines = list(read_lines(path))
    assert [(line[0], len(line), has_end) for line, has_end in lines] == [
        ("x", LONGEST_LINE_CHARS, True),
        ("y", LONGEST_LINE_CHARS, True),
        ("z", 1, False),
    ]


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
