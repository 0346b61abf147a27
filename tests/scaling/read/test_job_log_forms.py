"""scaling.read.job_log: logs of several ranks, runs and launchers."""

from pathlib import Path

import pytest
from test_causes import PREEMPTED

from run_folders import epoch_line, out_text
from scaling.read.job_log import TORN, JobLog, read_job_log


def read(tmp_path: Path, content: str | bytes) -> JobLog:
    path = tmp_path / "ddp_1g1n_12.out"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_job_log(path)


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
