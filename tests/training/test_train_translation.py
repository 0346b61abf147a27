"""train_translation.py as its user runs it, what it computes, and its parts one by one."""

import json
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from sacrebleu import corpus_bleu

import train_translation
from torch_server import SCRIPTS, TESTS, make_environment, run_python
from training import TrainingError
from training.translation.batches import POOL, SimilarLengths, share_batch
from training.translation.data import SentencePairs, Vocabulary, load_pairs
from training.translation.model import Translator
from training.translation.score import compute_bleu, count_bleu

# What the virtual cluster's jobs use: an epoch takes seconds there, and something is learnt in it.
SMALL = ["--layers=2", "--width=128", "--heads=4", "--lr=0.002", "--warmup-steps=50"]
TINY = ["--layers=1", "--width=32", "--heads=2", "--limit-batches=2", "--warmup-steps=1"]


def start_training(*args, **variables: str) -> subprocess.Popen:
    """As people type it: a process of its own, which starts its ranks."""
    return subprocess.Popen(
        [sys.executable, SCRIPTS / "train_translation.py", *args], env=make_environment(variables),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def load(path: Path) -> dict:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"JSON has {name}"))


# ---- The command as people type it ---------------------------------------------------------


@pytest.fixture(scope="module")
def two_rank_run(pairs, tmp_path_factory) -> tuple[str, Path]:
    """One epoch over all pairs on two processes: (its log, its workdir)."""
    workdir = tmp_path_factory.mktemp("run") / "workdir_2gpu_test"
    done = run_python(
        SCRIPTS / "train_translation.py", "--world_size", "2", "--batch_size", "16",
        "--n_epochs", "1", "--workdir", workdir, *SMALL, ranks=2, DATA_DIR=str(pairs),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, workdir


def test_bleu_rises_by_a_point_in_the_first_epoch(two_rank_run):
    """BLEU of translations that the model writes alone, before training and after."""
    run = load(two_rank_run[1] / "run.json")
    after = load(two_rank_run[1] / "rank0_results_epoch0.json")
    assert after["bleu"] >= run["bleu_before"] + 1
    assert after["validation_loss"] < run["val_loss_before"] - 1


def test_each_rank_leaves_its_file(two_rank_run):
    log, workdir = two_rank_run
    names = sorted(path.name for path in workdir.iterdir())
    assert names == [
        "RUN_COMPLETE.txt", "rank0_results_epoch0.json", "rank1_results_epoch0.json", "run.json",
        "training_metrics.json",
    ]  # fmt: skip
    ranks = [load(workdir / f"rank{rank}_results_epoch0.json") for rank in (0, 1)]
    epoch = load(workdir / "training_metrics.json")["epochs"][0]
    for rank in ranks:
        assert rank["tokens_per_sec"] == pytest.approx(rank["tokens"] / rank["training_time"])
        assert rank["steps"] == 4641 // 16
    assert ranks[0]["bleu"] == ranks[1]["bleu"] == epoch["val_bleu_global"]
    assert ranks[0]["validation_loss"] == ranks[1]["validation_loss"]
    assert ranks[0]["exposed_comm_s"] is not None
    tokens = sum(rank["tokens"] for rank in ranks)
    slowest_s = max(rank["training_time"] for rank in ranks)
    assert epoch["tokens_processed_global"] == tokens
    assert epoch["tokens_per_sec_global"] == pytest.approx(tokens / slowest_s)
    throughput = f"Throughput: {epoch['tokens_per_sec_global']:.1f} tokens/s"
    line = next(line for line in log.splitlines() if line.startswith("Epoch [1/1]"))
    assert line.endswith(f"| BLEU (val): {epoch['val_bleu_global']:.2f} | {throughput}")


def test_run_json_says_how_it_ran(two_rank_run):
    run = load(two_rank_run[1] / "run.json")
    expected = {
        "workload": "translation", "unit": "tokens/s", "model": "transformer-2x128", "heads": 4,
        "scaling": "weak", "world_size": 2, "batch_size_per_gpu": 8, "global_batch_size": 16,
        "grad_accum_steps": 1, "precision": "fp32", "strategy": "ddp", "epochs": 1, "lr": 0.002,
        "dataset": {"name": "pairs", "train": 4641, "val": 359, "vocab_size": 4000},
    }  # fmt: skip
    assert {key: run[key] for key in expected} == expected


def test_a_launchers_group_is_joined(pairs, tmp_path):
    """With the options of a job: bf16, accumulation, label smoothing, a loader process."""
    done = run_python(
        SCRIPTS / "train_translation.py", *TINY, f"--data-dir={pairs}", f"--workdir={tmp_path}/w",
        "--world-size=2", "--n_epochs=1", "--batch-size=32", "--grad-accum-steps=2",
        "--precision=bf16", "--label-smoothing=0.1", "--num-workers=1", ranks=2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = done.stdout
    assert "2 processes x 8 x 2 passes = 32 samples per step; 1 epochs" in log
    run, last = load(tmp_path / "w/run.json"), load(tmp_path / "w/rank1_results_epoch0.json")
    assert (run["world_size"], run["precision"]) == (2, "bf16")
    assert 0 < last["validation_loss"] < 10


def test_signal_to_the_parent_saves_on_all_ranks(pairs, tmp_path):
    """The parent that people type starts its two ranks itself."""
    process = start_training(
        *TINY, f"--data-dir={pairs}", f"--workdir={tmp_path}/w", "--world_size=2",
        "--batch_size=8", "--n_epochs=200",
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (tmp_path / "w/rank0_results_epoch0.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    assert out.count("Stopped by SIGUSR1, all is saved") == 1
    assert len(list((tmp_path / "w/checkpoints").glob("step_*.pt"))) == 1
    assert (tmp_path / "w/REQUEUE").exists()


# ---- What it computes ----------------------------------------------------------------------


def run_probe(*args, ranks: int) -> None:
    done = run_python(TESTS / "translation_probe.py", *args, ranks=ranks)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def probes(pairs, tmp_path_factory) -> dict[str, dict]:
    """What tests/translation_probe.py saved: on 1 process ("1_0"), each of 2 and each of 4."""
    out = tmp_path_factory.mktemp("probes")
    for ranks in (1, 2, 4):
        run_probe(pairs, out, ranks=ranks)
    return {path.stem: torch.load(path, weights_only=True) for path in out.glob("*.pt")}


@pytest.mark.parametrize("kind", ["gradients", "accumulated"])
def test_gradients_of_all_process_numbers_agree(kind, probes):
    """Though ranks and passes have different numbers of tokens."""
    alone = probes["1_0"]["gradients"]
    assert alone.dtype == torch.float64
    assert alone.abs().max() > 0.01
    assert len(probes) == 7
    for probe in probes.values():
        torch.testing.assert_close(probe[kind], alone, rtol=0, atol=1e-10)
    tokens = [probes[f"4_{rank}"]["train"][1].item() for rank in range(4)]
    assert len(set(tokens)) > 1


def test_an_epoch_on_all_process_numbers_agrees(probes):
    """The same pairs in the same steps: so are the parameters, the losses and the BLEU sums."""
    for name in ("train", "val"):
        sums = [sum(probes[f"{n}_{rank}"][name] for rank in range(n)) for n in (1, 2, 4)]
        torch.testing.assert_close(sums[1], sums[0], rtol=1e-9, atol=0)
        torch.testing.assert_close(sums[2], sums[0], rtol=1e-9, atol=0)
    assert sums[0][10] > 500  # words of the translations: there was something to compare
    alone = probes["1_0"]["parameters"]
    for probe in probes.values():
        torch.testing.assert_close(probe["parameters"], alone, rtol=0, atol=1e-7)


CUTS = (1, 4, 6)  # of 2 epochs of 4 steps: 4 is the first epoch's last


@pytest.fixture(scope="module")
def trainings(pairs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trainings")
    run_probe(pairs, folder, *CUTS, ranks=2)
    return folder


@pytest.mark.parametrize("name", [*map(str, CUTS), "unprobed"])
def test_cut_and_resumed_is_bit_equal(name, trainings):
    """With dropout, whose random numbers a checkpoint keeps."""
    this, uncut = (
        torch.load(trainings / folder / "checkpoints/step_00000008.pt", weights_only=True)
        for folder in (name, "uncut")
    )
    assert [n for n in uncut["model"] if not torch.equal(this["model"][n], uncut["model"][n])] == []
    figures = [
        [(e["train_loss"], e["val_loss"], e["val_bleu"], e["samples"], e["lr"]) for e in results]
        for results in (this["record"]["results"], uncut["record"]["results"])
    ]
    assert figures[0] == figures[1]


def test_one_of_the_compared_trainings_was_probed(trainings):
    probes = [
        load(trainings / name / "rank1_results_epoch0.json")["probe"]
        for name in ("uncut", "unprobed")
    ]
    assert probes[0]["probe_s"] > 0
    assert probes[1] is None


# ---- Arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world_size", "given", "batch_size", "global_batch_size"),
    [
        (1, {}, 64, None),
        (2, {"batch_size": 128}, 64, None),
        (2, {"grad_accum_steps": 4}, 8, None),
        (2, {"scaling": "strong"}, 32, 64),
        (1, {"scaling": "strong", "grad_accum_steps": 2}, 32, 64),
        (2, {"scaling": "strong", "global_batch_size": 256}, 32, 256),
    ],
)
def test_batch_is_that_of_all_ranks(world_size, given, batch_size, global_batch_size, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    defaults = {
        "scaling": "weak", "batch_size": 64, "global_batch_size": None, "grad_accum_steps": None,
    }  # fmt: skip
    args = Namespace(**defaults | given)
    share_batch(args)
    assert (args.batch_size, args.global_batch_size) == (batch_size, global_batch_size)


@pytest.mark.parametrize(
    ("world_size", "passes", "message"),
    [
        (2, None, "--batch-size 63 is the global batch, and no multiple of 2 ranks; choose"),
        (3, 2, "--batch-size 63 is the global batch, and no multiple of 3 ranks x 2 passes"),
    ],
)
def test_batch_that_cannot_be_shared_is_refused(world_size, passes, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    args = Namespace(batch_size=63, grad_accum_steps=passes, global_batch_size=None, scaling="weak")
    with pytest.raises(TrainingError, match=message):
        share_batch(args)


# ---- Data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(pairs) -> tuple[SentencePairs, SentencePairs]:
    return load_pairs(pairs, max_tokens=256)


@pytest.fixture
def copied(pairs, tmp_path) -> Path:
    """A copy of the data, to be spoilt."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for path in pairs.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_tokens_are_the_sentence_and_its_end(loaded, pairs):
    train_set, _ = loaded
    vocabulary = train_set.vocabulary
    lines = (pairs / "train.tgt").read_text(encoding="utf-8").split("\n")
    source, target = train_set[7]
    assert (target[0], target[-1], source[-1]) == (vocabulary.bos_id, 2, vocabulary.eos_id)
    assert vocabulary.decode([target[1:-1].tolist()]) == [lines[7]] == [train_set.references[7]]
    assert train_set.target_tokens[7] == len(target) - 1


def test_names_of_special_tokens_in_a_sentence_are_text(loaded):
    vocabulary = loaded[0].vocabulary
    (tokens,) = vocabulary.encode(["a <pad> b<eos>"])
    assert vocabulary.pad_id not in tokens
    assert tokens.tolist().count(vocabulary.eos_id) == 1
    assert vocabulary.decode([tokens[:-1].tolist()]) == ["a <pad> b<eos>"]


def test_long_training_pairs_are_left_out_and_counted(pairs, capsys):
    train_set, val_set = load_pairs(pairs, max_tokens=12)
    assert 0 < train_set.left_out == 4641 - len(train_set)
    assert train_set.lengths.max() == 12
    assert len(val_set) == 359
    said = f"Left out {train_set.left_out} training pairs of more than 12 tokens\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("train.src", lambda text: text + b"one more\n", "has 4642 lines and train.tgt 4641"),
        ("val.tgt", lambda text: b"", r"val.src has 359 lines and val.tgt 0"),
        ("val.src", lambda text: text + b"\xff\n", r"val.src is not UTF-8 \(byte \d+\)"),
        ("tokenizer.json", lambda text: text[:500], "tokenizer.json is no tokenizer.json"),
        ("tokenizer.json", lambda text: text.replace(b"<eos>", b"<end>"), "has no token <eos>"),
        ("train.tgt", None, "cannot read .*train.tgt: No such file or directory; prepare_data.py"),
    ],
)
def test_spoilt_data_is_refused(name, spoil, message, copied):
    path = copied / name
    path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
    with pytest.raises(TrainingError, match=message) as caught:
        load_pairs(copied, max_tokens=256)
    assert "\n" not in str(caught.value)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="is not a folder; set --data-dir or"):
        load_pairs(tmp_path / "nothing", max_tokens=256)


@pytest.mark.parametrize("package", ["tokenizers", "sacrebleu"])
def test_missing_package_is_named(package, pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails as if not installed
    with pytest.raises(TrainingError, match=f"needs the package {package}: pip install tokenizers"):
        load_pairs(pairs, max_tokens=256)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_batches_of_similar_lengths(world_size, loaded):
    train_set, _ = loaded
    samplers = [
        SimilarLengths(train_set, world_size, rank, seed=3, batch=32) for rank in range(world_size)
    ]
    orders = []
    for epoch in (0, 1, 0):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [list(sampler) for sampler in samplers]
        assert {len(part) for part in parts} == {len(samplers[0])}
        orders.append([index for together in zip(*parts, strict=True) for index in together])
    first, second, again = orders
    assert first == again != second
    assert len(set(first)) == len(first) == 4641 // 32 * 32  # no pair twice
    lengths = train_set.lengths[torch.tensor(first)].view(-1, 32)
    spread = (lengths.max(dim=1).values - lengths.min(dim=1).values).float().mean()
    assert spread < 0.2 * lengths.max()
    assert samplers[0].step_tokens[5] == train_set.target_tokens[first[160:192]].sum()
    assert len(samplers[0].step_tokens) == 145 > POOL


# ---- Model and score -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def translator() -> Translator:
    """Random weights whose translations are long enough to be worth comparing."""
    torch.manual_seed(5)
    model = Translator(50, 0, width=32, layers=2, heads=4, dropout=0.1).double().eval()
    torch.nn.init.normal_(model.embedding.weight, std=0.5)
    return model


def test_cached_decoding_is_greedy_decoding(translator):
    """Each token follows from a full pass over all that was written before it."""
    torch.set_default_dtype(torch.float64)
    source = torch.randint(3, 50, (6, 9))
    source[2, 5:] = 0  # padding
    (rows, whole) = translator.translate(source, bos_id=1, eos_id=2), torch.full((6, 1), 1)
    for _ in range(28):
        scores = translator(source, whole)
        whole = torch.cat([whole, scores[:, -1:].argmax(dim=-1)], dim=1)
    torch.set_default_dtype(torch.float32)
    limits = [28, 28, 20, 28, 28, 28]
    for row, expected, limit in zip(rows, whole[:, 1:].tolist(), limits, strict=True):
        cut = expected[:limit]
        assert row == cut[: cut.index(2)] if 2 in cut else row == cut
    assert max(map(len, rows)) > 5


def test_translation_does_not_depend_on_the_batch(translator):
    short, long = torch.randint(3, 50, (1, 4)), torch.randint(3, 50, (1, 20))
    padded = torch.cat([short, torch.zeros(1, 16, dtype=torch.int64)], dim=1)
    together = translator.translate(torch.cat([padded, long]), bos_id=1, eos_id=2)
    assert together[0] == translator.translate(short, bos_id=1, eos_id=2)[0]
    assert together[1] == translator.translate(long, bos_id=1, eos_id=2)[0]


def test_a_position_does_not_see_what_comes_after(translator):
    source, target = torch.randint(3, 50, (2, 6)), torch.randint(3, 50, (2, 7))
    changed = target.clone()
    changed[:, 4:] = 7
    before, after = translator(source, target), translator(source, changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_padding_changes_no_loss(translator):
    source, target = torch.randint(3, 50, (2, 6)), torch.randint(3, 50, (2, 7))
    target[1, 5:] = 0
    scores = translator(source, target[:, :-1])
    by_hand = -torch.log_softmax(scores, dim=-1).gather(2, target[:, 1:, None]).squeeze(2)
    expected = by_hand[0].sum() + by_hand[1, :4].sum()
    loss_sum = train_translation.sum_losses(scores, target, pad_id=0)
    torch.testing.assert_close(loss_sum, expected)
    counted = train_translation.count_batch(target, loss_sum, pad_id=0)
    assert counted.tolist() == [loss_sum.item(), 10]


SENTENCES = [
    ("The cat sat on the mat today.", "The cat sat on the mat."),
    ("Geben Sie eine gültige Zahl ein.", "Bitte geben Sie eine gültige Zahl ein."),
    ("", "Nothing was said here."),
    ("%(name)s ist kein Name, sondern ein Platzhalter", "%(name)s ist ein Platzhalter"),
]


@pytest.mark.parametrize("cut", [0, 1, 3, 4])
def test_bleu_of_parts_is_bleu_of_the_whole(cut):
    translations, references = map(list, zip(*SENTENCES, strict=True))
    whole = corpus_bleu(translations, [references]).score
    parts = [
        count_bleu(translations[part], references[part]) for part in (slice(cut), slice(cut, None))
    ]
    assert 10 < whole < 90
    assert compute_bleu(sum(parts).tolist()) == pytest.approx(whole, abs=1e-12)


def test_bleu_of_nothing_right_is_zero():
    assert compute_bleu(count_bleu(["x y z"], ["a b c"]).tolist()) == 0.0


def test_vocabulary_counts_the_largest_id(pairs):
    assert Vocabulary(pairs / "tokenizer.json").size == 4000
