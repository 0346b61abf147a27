"""scaling.read.slurm_log and scaling.read.causes: a job's log, and why a job failed."""

import math
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from run_folders import EPOCH_LINE, epoch_line, out_text
from scaling.read.causes import find_cause, read_evidence
from scaling.read.slurm_log import SlurmOut, parse_epoch_line, read_slurm_out
from scaling.read.state import State
from scaling.read.text import LONGEST_LINE_CHARS, read_lines

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(tmp_path: Path, content: str | bytes) -> SlurmOut:
    path = tmp_path / "ddp_1g1n_12.out"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_slurm_out(path)


# ---- The epoch line ------------------------------------------------------------------------


def test_the_known_line():
    epoch = parse_epoch_line(EPOCH_LINE)
    assert (epoch.epoch, epoch.epochs, epoch.lr) == (3, 3, 0.001)
    assert (epoch.train_loss, epoch.val_loss) == (5.149, 5.664)
    assert (epoch.train_accuracy_pct, epoch.val_accuracy_pct) == (2.16, 0.98)
    assert (epoch.throughput_per_s, epoch.unit) == (704.9, "img/s")
    assert (epoch.lr.text, epoch.throughput_per_s.text) == ("0.001000", "704.9")  # as printed
    assert epoch.train_perplexity is epoch.val_bleu is None


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
    assert (epoch.train_perplexity, epoch.val_perplexity) == (172.26, 288.3)
    assert (epoch.unit, epoch.train_accuracy_pct) == ("tokens/s", None)
    bleu = EPOCH_LINE.replace("Accuracy (train, val): 2.16%, 0.98%", "BLEU (val): 23.4")
    assert parse_epoch_line(bleu.replace("img/s", "samples/s")).val_bleu == 23.4


@pytest.mark.parametrize("text", ["nan", "inf", "1e-05", "0.000012", "12"])
def test_a_loss_that_is_no_plain_decimal(text):
    epoch = parse_epoch_line(EPOCH_LINE.replace("5.149", text))
    assert epoch.train_loss.text == text
    assert math.isnan(epoch.train_loss) if text == "nan" else epoch.train_loss == float(text)


def test_a_cut_line_is_no_line_at_any_length():
    assert parse_epoch_line(EPOCH_LINE[: EPOCH_LINE.index(" img/s") + len(" img/s")]) is not None
    for size in range(len(EPOCH_LINE)):
        assert parse_epoch_line(EPOCH_LINE[:size]) is None, EPOCH_LINE[:size]


def test_another_processes_words_in_the_line_are_never_a_number():
    noise = " node2:7:7 NCCL INFO Connected 4 rings "
    for at in range(1, len(EPOCH_LINE)):
        epoch = parse_epoch_line(EPOCH_LINE[:at] + noise + EPOCH_LINE[at:])
        if epoch is not None:  # only where the noise parts words, not numbers
            assert (epoch.train_loss, epoch.throughput_per_s) == (5.149, 704.9)
            assert epoch.train_accuracy_pct in (2.16, None)


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
    assert found.train_loss == float(f"{loss:.3f}")
    assert found.train_accuracy_pct.text == f"{accuracy:.2f}"
    assert found.throughput_per_s.text == f"{throughput:.1f}"


# ---- The whole log -------------------------------------------------------------------------


def test_totals_and_epochs(tmp_path):
    attempt = read(tmp_path, out_text()).last_attempt
    assert [epoch.epoch for epoch in attempt.epochs] == [1, 2, 3]
    assert (attempt.total_training_s, attempt.best_val_loss) == (93.1, 5.664)
    assert (attempt.best_val_accuracy_pct, attempt.has_all_epochs) == (0.98, True)


def test_carriage_returns_bad_bytes_and_a_long_line_hide_nothing(tmp_path):
    bar = b"".join(b"\r%3d%%|####  |" % n for n in range(100))
    content = b"\xff\xfe\x80 not UTF-8\n" + bar + b"\r" + epoch_line(1).encode() + b"\r\n"
    content += b"x" * 3_000_000 + b"\n\0\0" + epoch_line(2).encode() + b"\n"
    content = b"first\n" + content
    assert [e.epoch for e in read(tmp_path, content).last_attempt.epochs] == [1, 2]


def test_the_last_number_of_a_growing_log_may_be_cut(tmp_path):
    attempt = read(tmp_path, out_text().split("Best validation acc")[0][:-2]).last_attempt
    assert attempt.best_val_loss is None  # `5.66` of `5.664`
    assert attempt.total_training_s == 93.1


def test_lines_that_speak_of_an_epoch_and_hold_none_are_counted(tmp_path):
    log = read(tmp_path, f"{epoch_line(1)}\nEpoch [2/3] LR: 0.0010node2: hello\n{epoch_line(3)}\n")
    assert log.unreadable == [2]
    assert [epoch.line_number for epoch in log.last_attempt.epochs] == [1, 3]
    assert not log.last_attempt.has_all_epochs


PREEMPTED = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T10:00:00 DUE TO {} ***"


def test_of_several_runs_in_one_log_the_last_counts(tmp_path):
    log = read(tmp_path, out_text(2, throughput=1.0) + out_text(3, throughput=2.0))
    assert [len(attempt.epochs) for attempt in log.attempts] == [2, 3]
    assert {epoch.throughput_per_s for epoch in log.last_attempt.epochs} == {2.0}
    assert log.attempts[0].total_training_s is None


def test_another_number_of_epochs_is_another_run(tmp_path):
    log = read(tmp_path, out_text(3) + "\n".join(epoch_line(n, 5) for n in (2, 3)) + "\n")
    assert [e.epoch for e in log.last_attempt.epochs] == [2, 3]
    assert not log.last_attempt.has_all_epochs


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
        read_slurm_out(tmp_path / "gone.out")


def test_cut_at_any_byte_it_gives_the_epochs_that_are_whole(tmp_path):
    text = out_text()
    ends = [text.index(epoch_line(n)) + len(epoch_line(n)) for n in (1, 2, 3)]
    for size in range(0, len(text) + 1, 3):
        found = read(tmp_path, text[:size]).last_attempt.epochs
        assert len(found) == sum(end <= size for end in ends)


# ---- Causes --------------------------------------------------------------------------------

TRACEBACK = """\
Traceback (most recent call last):
  File "/repo/scripts/train.py", line 12, in <module>
    raise ValueError("CUDA out of memory")  # source text, not a message
    ^^^^^^^^^^^^^^^^^^^^^
{}
"""
PEER = "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242"
CHILD_FAILED = TRACEBACK.format(
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: "
)
EADDRINUSE = "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, code: -98, name: EADDRINUSE, message: address already in use"  # noqa: E501
CUDA_OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 31.73 GiB"  # noqa: E501

# A line of a real log; what the cause's text must hold; a word of the hint; the state.
CAUSES = [
    ("error: no data in /data; run prepare_data.py", "error: no data", "mend", State.FAILED),
    (
        "[rank 1 on node2] error: cannot decode n01443537_0.JPEG",
        "[rank 1 on node2] error: cannot decode n01443537_0.JPEG",
        "mend",
        State.FAILED,
    ),
    ("train.py: error: argument --epochs: invalid int value: 'x'", "--epochs", "mend", "failed"),
    (TRACEBACK.format("KeyError: 'labels'"), "KeyError: 'labels'", "traceback", "failed"),
    (
        TRACEBACK.format("PIL.UnidentifiedImageError: cannot identify image file"),
        "UnidentifiedImageError",
        "traceback",
        "failed",
    ),
    (TRACEBACK.format(CUDA_OOM), "CUDA out of memory. Tried", "--batch-size", "out of memory"),
    (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have "
        "been OOM Killed.",
        "used up its memory",
        "--mem",
        State.OUT_OF_MEMORY,
    ),
    (
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.batch.",
        "used up its memory",
        "--mem",
        State.OUT_OF_MEMORY,
    ),
    ("srun: error: node1: task 0: Out Of Memory", "used up its memory", "--mem", "out of memory"),
    (PREEMPTED.format("TIME LIMIT"), "reached its time limit", "--time", State.TIMED_OUT),
    (PREEMPTED.format("PREEMPTION"), "preempted", "requeue", State.CANCELLED),
    (PREEMPTED.format("NODE FAILURE"), "node of the job failed", "site", State.FAILED),
    (
        "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T10:00:00 ***",
        "stopped by scancel",
        "scancel",
        State.CANCELLED,
    ),
    (
        "node1:7:9 [0] NCCL WARN Bootstrap : no socket interface found",
        "no socket interface",
        "NCCL_SOCKET_IFNAME",
        "failed",
    ),
    (
        TRACEBACK.format("torch.DistBackendError: NCCL error in: a.cpp, ncclSystemError"),
        "NCCL error in",
        "NCCL_SOCKET_IFNAME",
        "failed",
    ),
    (TRACEBACK.format(EADDRINUSE), "EADDRINUSE", "port", "failed"),
    ("RuntimeError: Address already in use", "Address already in use", "port", "failed"),
    (
        TRACEBACK.format("socket.gaierror: [Errno -2] Name or service not known"),
        "Name or service not known",
        "master address",
        "failed",
    ),
    (
        TRACEBACK.format(
            "torch.distributed.DistNetworkError: The client socket has timed out after 60000ms "
            "while trying to connect to (node1, 29500)."
        ),
        "client socket has timed out",
        "network",
        "failed",
    ),
    (
        TRACEBACK.format("ModuleNotFoundError: No module named 'torch'"),
        "No module named 'torch'",
        "environment",
        "failed",
    ),
    (
        "/var/spool/slurmd/job00012/slurm_script: line 80: torchrun: command not found",
        "torchrun: command not found",
        "Software section",
        "failed",
    ),
    (
        TRACEBACK.format("OSError: [Errno 28] No space left on device"),
        "No space left",
        "RUN_DIR",
        "failed",
    ),
    (
        "python: can't open file '/x/train.py': [Errno 2] No such file or directory",
        "can't open file",
        "own folder",
        "failed",
    ),
    ("  exitcode  : -9 (pid: 4242)", "exitcode", "--mem", State.FAILED),
    (TRACEBACK.format(PEER), "Connection closed by peer", "another process", "failed"),
    (CHILD_FAILED, "ChildFailedError", "another process", "failed"),
]


@pytest.mark.parametrize(("text", "words", "hint", "state"), CAUSES, ids=[c[1] for c in CAUSES])
def test_causes(text, words, hint, state):
    noise = "node1:12:12 [0] NCCL INFO Connection closed by peer, error: not one\n"
    for prefix in ("", "0: ", "[rank1]: "):
        lines = [noise, *(prefix + line for line in text.splitlines()), noise]
        cause = find_cause(lines)
        assert words in cause.text
        assert hint in cause.hint
        assert cause.state == state
        assert "\n" not in cause.text + cause.hint


def test_a_log_without_an_error_has_no_cause():
    text = out_text() + "wandb: WARNING error rate is fine\nJob 12: complete (exit status 0)\n"
    assert read_evidence(text.splitlines()) == (None, None)


OWN = "[rank 1 on node2] error: cannot decode n01443537_0.JPEG"


@pytest.mark.parametrize(
    "echo",
    [
        TRACEBACK.format(PEER),
        CHILD_FAILED,
        TRACEBACK.format("torch.distributed.elastic.api.SignalException: Process 7 got signal: 15"),
        "[rank 0 on node1] error: RuntimeError: Connection closed by peer",
        "slurmstepd: error: *** STEP 12.0 ON node2 CANCELLED AT 2026-11-21T10:00:00 ***",
        "srun: error: node1: task 0: Exited with exit code 1",
        TRACEBACK.format("RuntimeError: DataLoader worker (pid 7) exited unexpectedly"),
    ],
)
def test_a_consequence_is_never_preferred_to_a_cause(echo):
    for text in (f"{OWN}\n{echo}", f"{echo}\n{OWN}"):
        assert find_cause(text.splitlines()).text == OWN


def test_the_first_of_equals_stands():
    first, second = (TRACEBACK.format(f"ValueError: {word}") for word in ("first", "second"))
    assert find_cause((first + second).splitlines()).text == "ValueError: first"
    chained = "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert find_cause((first + chained + second).splitlines()).text == "ValueError: first"


def test_a_loader_workers_error_is_the_original_one():
    wrapper = "RuntimeError: Caught OSError in DataLoader worker process 1."
    text = TRACEBACK.format(wrapper) + "Original " + TRACEBACK.format("OSError: truncated image")
    assert find_cause(text.splitlines()).text == "OSError: truncated image"


def test_our_own_line_replaces_the_traceback_that_it_closes():
    text = TRACEBACK.format("KeyError: 'x'") + "[rank 3 on node2] error: KeyError: 'x'\n"
    assert find_cause(text.splitlines()).text == "[rank 3 on node2] error: KeyError: 'x'"


def test_oom_is_the_cause_though_slurm_says_it_last():
    text = "[rank 0 on node1] error: RuntimeError: what a dying peer made of it\n" + CAUSES[6][0]
    assert find_cause(text.splitlines()).state is State.OUT_OF_MEMORY


def test_an_error_that_the_training_outlived_gives_way():
    text = TRACEBACK.format("ImportError: no apex") + epoch_line(1) + "\n" + CAUSES[6][0]
    assert find_cause(text.splitlines()).state is State.OUT_OF_MEMORY
    two = TRACEBACK.format("ImportError: no apex") + epoch_line(1) + "\nerror: real\n"
    assert find_cause(two.splitlines()).text == "error: real"
    buffered = TRACEBACK.format("ValueError: real") + epoch_line(1) + "\n" + CHILD_FAILED
    assert find_cause(buffered.splitlines()).text == "ValueError: real"


def test_an_older_attempts_error_is_not_this_ones():
    text = f"{OWN}\n{PREEMPTED.format('JOB REQUEUE')}\nerror: port taken\n"
    assert find_cause(text.splitlines()).text == "error: port taken"


def test_our_own_summary_in_the_log_is_not_read_as_a_cause():
    text = f"{OWN}\nFirst cause: CUDA out of memory\nJob 12: out of memory: oom_kill\n"
    assert find_cause(text.splitlines()).text == OWN


def test_time_limit_after_an_error_tells_both():
    cause, ending = read_evidence([OWN, PREEMPTED.format("TIME LIMIT")])
    assert (cause.text, ending.state) == (OWN, State.TIMED_OUT)


LINES = st.one_of(
    st.text(max_size=40),
    st.sampled_from([line for text, *_ in CAUSES for line in text.splitlines()]),
    st.sampled_from([EPOCH_LINE, epoch_line(1), EPOCH_LINE[:60], "\x1b[", "\x1b]0;", "Epoch ["]),
)


@quick
@given(st.lists(LINES, max_size=12))
def test_any_text_is_read(tmp_path, lines):
    text = "\n".join(lines)
    log = read(tmp_path, text.encode("utf-8", "surrogatepass"))
    assert len(log.attempts) >= 1
    find_cause(text.splitlines())


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
    assert read_slurm_out(path).last_attempt.has_all_epochs
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
