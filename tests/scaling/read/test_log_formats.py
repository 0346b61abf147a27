"""Logs of other trainers, read by a format: the shipped ones, and one of a stranger."""

from decimal import Decimal
from pathlib import Path

import pytest

from common.errors import UserError
from scaling.read.foreign_log import (
    FORMATS,
    LogChoice,
    find_format,
    load_formats,
    measure_windows,
    read_foreign_log,
)
from scaling.read.text import find_word
from trainer_logs import STUDY, rate

STRANGER = r"""
name = "stranger"
title = "somebody's trainer"
unit = "graphs/s"
per = "gpu"
patterns = '\bstep (?P<step>{count}): loss (?P<loss>{number}), (?P<rate>{number}) graphs per second'
facts = 'running on (?P<gpus>{count}) GPUs'
end = 'all done'
"""


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(tmp_path: Path, text: str, name: str | None = None, gpus=None, samples=None):
    log = read_foreign_log(put(tmp_path / "job.out", text), name and [find_format(name)])
    gpus = gpus or log.find_scale()[1]
    return log, measure_windows(log, gpus, samples and (samples, False))


def test_each_shipped_format_has_a_log_in_the_tests():
    assert {format.name for format in load_formats()} == {*STUDY, "bandwidth", "imagenet"}
    assert all(path.stem == find_format(str(path)).name for path in FORMATS.glob("*.toml"))


@pytest.mark.parametrize("name", STUDY)
def test_a_log_is_read_by_the_format_that_fits(tmp_path, name):
    write, options, loss = STUDY[name]
    choice = LogChoice.parse(None, ["4"], **options)
    path = put(tmp_path / "job.out", write(4))
    log = read_foreign_log(path)
    windows = measure_windows(log, 4, choice.find_samples(path, "1"))
    assert log.format.name == name
    assert log.counts.is_whole and not log.counts.dropped
    assert float(windows.last.throughput_per_s) == pytest.approx(rate(4), rel=1e-4)
    assert loss is None or str(windows.last.get("train_loss")) == str(Decimal(loss))
    assert log.ended or name == "deepspeed"
    if name not in ("nersc", "lightning", "huggingface"):
        assert log.find_scale()[1] == (None if name == "nanogpt" else 4)


VERSIONS = [  # format, lines of another release, GPUs, samples, the throughput
    ("huggingface", "{'train_runtime': '273', 'train_samples_per_second': '3.663', 'epoch': '1'}",
     1, None, "3.663"),
    ("huggingface", "{'train_runtime': '2e+04', 'train_samples_per_second': '1.2e+03'}", 1, None,
     "1.2e+03"),
    ("huggingface", '{"train_runtime": 2.0, "train_samples_per_second": 3.5, "epoch": 1.0}', 1,
     None, "3.5"),
    ("deepspeed", "[2022-08-29 06:58:56,176] [INFO] [timer.py:198:stop] 0/20, "
     "RunningAvgSamplesPerSec=232.7, CurrSamplesPerSec=227.5, MemAllocated=0.3GB", 4, None,
     "227.5"),
    ("deepspeed", "[2021-01-01 06:58:56,176] [INFO] [timer.py:154:stop] 0/20, SamplesPerSec=99.5",
     4, None, "99.5"),
    ("torchtitan", "- step: 10  loss: 10.7  memory:  0.7GiB(0.9%)  wps: 2,000  mfu: 1.2%", 4, None,
     "8000"),
    ("megatron", " iteration      100/  500000 | elapsed time per iteration (ms): 500.0 | learning "
     "rate 1.500E-04 | lm loss 9.1E+00 |\n  global_batch_size ........ 8", 4, None, "16"),
    ("megatron", " iteration        3/     100 | consumed samples:  12 | elapsed time per iteration"
     " (s): 2.00 | learning rate: 1E-4 | global batch size:     4 | lm loss: 1.2E+01 |", 4, None,
     "2"),
    ("torchvision", "Namespace(batch_size=2, epochs=26, world_size=4)\nEpoch: [0]  [  50/7329]  "
     "eta: 1 day, 1:00:00  lr: 0.02  loss: 1.2 (1.4)  loss_mask: 0.5 (0.6)  time: 0.2500 (0.3)  "
     "data: 0.01  max mem: 3000", 4, None, "32"),
    ("lightning", "Epoch 3: 100%|##########| 10/10 [00:20<00:00,  2.00s/it, loss=0.5, v_num=1]", 4,
     64, "32"),
    ("lightning", "Epoch 0/2  ━━━━━━━━━━━━━━ 938/938 0:00:10 • 0:00:00 89.50it/s v_num: 0", 1, 10,
     "895"),
    ("huggingface", "[INFO|trainer_pt_utils.py:913] >>   train_samples_per_second =    239.03", 1,
     None, "239.03"),
    ("torchtitan", "[titan] - Building device mesh with parallelism: pp=2, dp_replicate=1, "
     "dp_shard=2, cp=1, tp=2, ep=1, etp=1\nstep:  1  loss: 12.2  grad_norm:  0.6  mmemory: 4GiB(3%)"
     "  tps: 1,478  mfu: 8.65%", None, None, "11824"),
    ("torchtitan", "+ torchrun --nnodes 2 --nproc_per_node=4 -m torchtitan.train\n"
     "step:  1  loss: 1.2  memory: 4GiB(3%)  tps: 10  mfu: 8.65%", None, None, "80"),
    ("imagenet", "Epoch: [0][  10/5005]\tTime  0.500 ( 1.402)\tData  0.1 ( 0.3)\tLoss 6.9e+00 (7)",
     4, 256, "512"),
    ("imagenet", "Epoch: [0][10/1251]\tTime 0.4 (0.5)\tSpeed 640.5 (550.2)\tLoss 6.9 (6.9)", 4,
     None, "640.5"),
    ("torchtitan", "SLURM_NNODES=2\nSLURM_GPUS_ON_NODE=4\nstep:  1  loss: 1.2  memory: 4GiB(3%)"
     "  tps: 10  mfu: 8.65%", None, None, "80"),
    ("nersc", "Time taken for epoch 1 is: 178.38 secs Loss: 3.8739", 1, 17838, "100"),
    ("nersc", "Time taken for epoch 1 is 4.1 sec; with 3.8/0.08 in tr/val", 1, 41, "10"),
    ("nersc", "Time taken for epoch 1 is 4.1 sec\nTotal time is 8.2 sec, avg 55.5 samples/sec", 1,
     None, "55.5"),
    ("timm", "Train: 0 [   0/1251 (  0%)]  Loss:  6.999 (6.9990)  Time: 1.200s,  100.00/s  "
     "(1.200s,  100.00/s)  LR: 1.000e-05  Data: 0.800 (0.800)", 4, None, "100.00"),
    ("nanogpt", "tokens per iteration will be: 491,520\niter 20: loss 9.1, time 1000.00ms, mfu 1%",
     8, None, "491520"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "line", "gpus", "samples", "expected"), VERSIONS)
def test_the_lines_of_other_releases(tmp_path, name, line, gpus, samples, expected):
    log, windows = read(tmp_path, line + "\n", gpus=gpus, samples=samples)
    assert log.format.name == name
    assert windows.last.throughput_per_s == Decimal(expected)


def steps(*rates: object, first: int = 1) -> str:
    line = "step {}: loss 1.5, {} graphs per second\n"
    return "".join(line.format(at, each) for at, each in enumerate(rates, first))


NOISE = [  # what stands in a stranger's log, its windows' rates, a note
    ("running on 2 GPUs\n" + steps(50, 100, 100, 100), ["100", "200", "200", "200"], ""),
    (steps("1,000", "2_000", "3e3"), ["1000", "2000", "3E+3"], ""),
    (steps(50, "nan", 100, "inf", 0), ["50", "100"], ""),
    ("\r" + steps(50, 100).replace("\n", "\r"), ["50", "100"], ""),
    (steps(50, 100) + "step 3: loss 1.5, 12", ["50", "100"], ""),  # cut in the number
    (steps(50, 100, 100) + "Traceback (most recent call last):\n" +
     steps(70, 110, 110, first=2),
     ["50", "70", "110", "110"], "restarted 1 time:"),
    (steps(50, 100, 100) + steps(60, 110), ["60", "110"], "its steps began anew (1x)"),
    (steps(50, 100) + steps(90, first=2), ["50", "90"], "up to 2 lines per step"),
    ("".join(f"0: {a}1: {a}" for a in steps(50, 100, 100).splitlines(True)), ["50", "100", "100"],
     ""),
    ("".join(f"\x1b[32m[rank0]:\x1b[0m {a}" for a in steps(50, 100).splitlines(True)),
     ["50", "100"], ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "note"), NOISE, ids=range(len(NOISE)))
def test_noise(tmp_path, text, expected, note):
    format = put(tmp_path / "stranger.toml", STRANGER)
    log, windows = read(tmp_path, text, str(format), gpus=2 if "running" in text else 1)
    scale = 2 if "running" in text else 1
    assert [str(w.rate * scale) for w in log.windows] == expected
    assert log.counts.is_whole
    assert note in "; ".join(windows.notes)
    if "nan" in text:
        assert log.counts.dropped == {"its throughput is no number above 0": 3}
    if not text.endswith(("\n", "\r")):
        assert log.counts.is_whole and not log.counts.dropped


def test_ranks_out_of_step_are_not_restarts(tmp_path):
    early, late = (steps(*[per_s] * 20).splitlines(True) for per_s in (100, 90))
    text = "".join(early[:2]) + "".join(x + y for x, y in zip(early[2:], late, strict=False))
    format = put(tmp_path / "stranger.toml", STRANGER)
    log, windows = read(tmp_path, text, str(format), gpus=1)
    assert len(log.windows) == 20 and not log.restarts
    assert windows.last.throughput_per_s < 100  # the slowest counts


def test_warm_up_is_a_tenth_and_the_median_stands_beside_the_mean(tmp_path):
    format = put(tmp_path / "stranger.toml", STRANGER)
    _, windows = read(tmp_path, steps(1, 1, *[100] * 12, 10), str(format), gpus=1)
    assert windows.warmup == 2
    assert windows.describe() == (
        "log format stranger: mean 93.08, median 100.0 graphs/s of 13 windows after 2 of warm-up"
    )
    assert "does not say that the training ended" in windows.notes[-1]


REFUSED = [  # log, GPUs, what the one line says
    (steps(50, 100), None, "add --gpus job.out=N"),
    ("torchrun --nnodes=$N --nproc_per_node=4\n" + steps(50), None, "add --gpus job.out=N"),
    ("running on 2 GPUs\nrunning on 4 GPUs\n" + steps(50), None, "it says gpus 2 and 4"),
    ("iter 1: loss 2.0, time 10.0ms, mfu 1%\n", 4, "add --samples job.out=N"),
    ("Epoch 0: 100%|##| 8/8 [00:01<00:00, 8.00it/s]\n", 4, "add --samples job.out=N"),
    (" busbw: 90.0 GBps (720.0 Gbps)\n", 4, "has no throughput of a training"),
    ("hello\n", 4, "no line looks like one"),
    ("Step 10 | 512.3 images/sec\n", 4, 'line 1 "Step 10 | 512.3 images/sec" looks like one: desc'),
    (STUDY["deepspeed"][0](4) + STUDY["megatron"][0](4), 4, "deepspeed or --log-format megatron"),
]


@pytest.mark.parametrize(("text", "gpus", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_the_log_does_not_say_is_asked_for(tmp_path, text, gpus, words):
    name = str(put(tmp_path / "stranger.toml", STRANGER)) if "graphs" in text else None
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, name, gpus=gpus)
    assert words in str(caught.value) and "\n" not in str(caught.value)


WRONG = [
    ('unit = "graphs/s"', 'units = "graphs/s"', 'unknown key "units"; did you mean "unit"?'),
    ('title = "somebody\'s trainer"', "", 'missing key "title"'),
    ('per = "gpu"', 'per = "node"', "must be one of job, gpu"),
    ('per = "gpu"', "", "per is missing"),
    ('unit = "graphs/s"', 'unit = "graphs"', "write what is counted per second"),
    ("(?P<rate>", "(?P<rat>", 'unknown group "rat"'),
    ("(?P<rate>", "(?P<loss2>", "unknown group"),
    ("(?P<rate>", "(", "has no group that measures"),
    ("(?P<rate>", "(?P<seconds>", "batch is missing"),
    ("(?P<rate>", "(?P<rate", "is no regular expression"),
    ("end = 'all done'", "end = 3", '"end" must be a list of texts'),
    ("end = 'all done'", "end = '.*'", "finds an empty line"),
    ("end = 'all done'", "end = [", "not valid TOML"),
]


@pytest.mark.parametrize(("old", "new", "words"), WRONG, ids=[words for *_, words in WRONG])
def test_a_wrong_format_is_refused_in_one_line(tmp_path, old, new, words):
    assert old in STRANGER
    path = put(tmp_path / "stranger.toml", STRANGER.replace(old, new))
    with pytest.raises(UserError) as caught:
        find_format(str(path))
    assert str(path) in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_are_not_of_their_form():
    with pytest.raises(UserError, match='did you mean "nanogpt"'):
        LogChoice.parse("nanogtp")
    for options in ({"gpus": ["x"]}, {"gpus": ["a=0"]}, {"samples": ["5/node"]}):
        with pytest.raises(UserError, match="write N or N"):
            LogChoice.parse(None, **options)
    choice = LogChoice.parse(None, ["8", "a.out=2x4", "12=1"], ["64/gpu", "b*=512"])
    assert choice.find_scale(Path("x/a.out"), "9") == (2, 8)
    assert choice.find_scale(Path("x/b.out"), "12") == (1, 1)
    assert choice.find_samples(Path("a.out"), "9") == (64, True)
    assert choice.find_samples(Path("b.out"), "9") == (512, False)
    assert LogChoice().find_samples(Path("b.out"), "9") is None


WORDS = [
    (r"\bstep (?P<step>\d+): loss", ": loss"), (r"^a+b?cd*e{2,3}f", "a"),
    (r"(?:abc)?x [\]yz]w", "x "),
    (r"one|another", ""), (r"(?i)one", ""), (r"\[it\] x\.y", "[it] x.y"), (r"\d+\s\w", ""),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "word"), WORDS)
def test_the_word_that_every_line_of_a_pattern_holds(expression, word):
    assert find_word(expression) == word
