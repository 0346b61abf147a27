"""train_gpt2.py: the model, the fixed work, equal losses at every scale and by every strategy."""

import json
import math
import re
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

import train_gpt2
from gpt2_probe import STRATEGIES
from run_folders import parse_epoch_line
from scaling.runs.records import read_training_metrics
from torch_server import SCRIPTS, TESTS, run_python
from training import TrainingError
from training.batches import divide_batch
from training.gpt2.arguments import parse_args
from training.gpt2.data import IGNORED, TokenSequences, choose_vocab_size
from training.gpt2.model import GPT2, count_parameters, split_decayed
from training.gpt2.work import FixedWork, PassSampler, check_tokens, cosine_decay

TRAINER = SCRIPTS / "train_gpt2.py"
SCALES = (1, 2, 4)
RUNS = [(scale, strategy) for scale, names in STRATEGIES.items() for strategy in names]
SHARDED = [run for run in RUNS if run[1] != "ddp"]
CUT = [*((2, name) for name in STRATEGIES[2]), (4, "hsdp"), (4, "tp")]
SMALL = ["--layers=2", "--heads=4", "--width=64", "--seq-length=32"]


def load(path: Path) -> dict:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"JSON has {name}"))


# ---- The model --------------------------------------------------------------------------


def test_gpt2_small_has_the_published_number_of_parameters():
    assert count_parameters(GPT2(layers=12, heads=12, width=768, vocab_size=50_257)) == 124_439_808


def test_a_token_is_predicted_from_earlier_ones_alone():
    torch.manual_seed(0)
    model = GPT2(layers=2, heads=2, width=16, vocab_size=50).eval()
    tokens = torch.randint(0, 50, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (tokens[0, 7] + 1) % 50
    difference = (model(tokens) - model(changed)).abs().amax(dim=(0, 2))
    assert difference[:7].max() == 0
    assert difference[7:].min() > 0


def test_attention_is_the_textbooks():
    """One block computed by hand, without torch's attention, GELU or LayerNorm."""
    torch.manual_seed(1)
    model = GPT2(layers=1, heads=2, width=8, vocab_size=11).double().eval()
    tokens = torch.randint(0, 11, (1, 5))
    block = model.blocks[0]

    def norm(x, layer):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * layer.weight + layer.bias

    x = model.token_embedding.weight[tokens[0]] + model.position_embedding.weight[:5]
    q, k, v = (norm(x, block.attention_norm) @ block.attention.qkv.weight.T).split(8, dim=1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = q[:, head] @ k[:, head].T / math.sqrt(4)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(dim=1) @ v[:, head])
    x = x + torch.cat(heads, dim=1) @ block.attention.out.weight.T
    h = norm(x, block.mlp_norm) @ block.mlp.inner.weight.T
    h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    x = x + h @ block.mlp.out.weight.T
    expected = norm(x, model.norm) @ model.token_embedding.weight.T
    torch.testing.assert_close(model(tokens)[0], expected)


def test_first_weights_are_gpt2s():
    torch.manual_seed(0)
    model = GPT2(layers=8, heads=4, width=128, vocab_size=1000)
    block = model.blocks[3]
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert block.mlp.out.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.03)
    assert block.attention.out.weight.std().item() == pytest.approx(0.005, rel=0.03)
    assert block.mlp.inner.bias.abs().max() == 0
    assert torch.equal(block.mlp_norm.weight, torch.ones(128))
    logits, targets = model(torch.arange(100)[None])[0], torch.arange(1, 101)
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    assert loss == pytest.approx(math.log(1000), rel=0.02)  # no token is likelier than another


def test_only_matrices_decay():
    model = GPT2(layers=1, heads=2, width=8, vocab_size=11)
    matrices, vectors = split_decayed(model, 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {each.dim() for each in matrices["params"]} == {2}
    assert {each.dim() for each in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


# ---- The data and the work --------------------------------------------------------------


def write_tokens(path: Path, tokens) -> Path:
    np.asarray(tokens, dtype="<u2").tofile(path)
    return path


def test_targets_are_the_next_tokens(tmp_path):
    data = TokenSequences(write_tokens(tmp_path / "a.bin", range(100, 111)), 5, vocab_size=200)
    assert len(data) == 2  # the token after the last sequence is there, too
    inputs, targets = data[1]
    assert inputs.tolist() == [105, 106, 107, 108, 109]
    assert targets.tolist() == [106, 107, 108, 109, 110]
    assert data[-1][1].tolist() == [IGNORED] * 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\1\0\2", r"a\.bin has 3 bytes, which are no whole number of 2-byte tokens"),
        (b"", r"a\.bin has 0 tokens, less than one sequence of 4"),
        (bytes(8), r"a\.bin has 4 tokens, less than one sequence of 4 and the token after it"),
        (bytes(20) + b"\0\2", r"a\.bin has the token 512, the vocabulary ends at 511; set --vocab"),
        (None, r"cannot read .*a\.bin: No such file or directory; set \$DATA_DIR to a folder"),
    ],
)
def test_wrong_tokens_are_one_line(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(TrainingError, match=message) as caught:
        TokenSequences(tmp_path / "a.bin", 4, vocab_size=512)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("world_size", "micro_batch", "accumulation"), [(1, 4, 4), (2, 4, 2), (4, 4, 1), (8, 2, 1)]
)
def test_sixteen_sequences_a_step_at_every_scale(world_size, micro_batch, accumulation):
    assert divide_batch(16, micro_batch, world_size) == (micro_batch, accumulation)


def test_the_default_work_is_29_million_tokens():
    work = FixedWork(3561, 3, None, 16, 512, sequences=56_976)
    assert work.tokens == 29_171_712
    assert [work.bounds(epoch) for epoch in range(3)] == [(0, 1187), (1187, 2374), (2374, 3561)]
    assert "3,561 steps x 16 sequences x 512 tokens = 29,171,712 tokens, 1.00 times" in (
        work.describe()
    )


def test_unequal_parts_add_up():
    work = FixedWork(10, 4, None, 16, 512, sequences=1000)
    bounds = [work.bounds(epoch) for epoch in range(4)]
    assert bounds == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert FixedWork(10, 4, 2, 16, 512, sequences=1000).tokens == 8 * 16 * 512


def draw_steps(world_size: int, work: FixedWork) -> list[set[int]]:
    """The sequences of all ranks in each step."""
    steps: list[list[int]] = [[] for _ in range(work.steps)]
    for rank in range(world_size):
        inner = DistributedSampler(range(work.sequences), world_size, rank, drop_last=True)
        sampler = PassSampler(inner, work)
        mine = []
        for epoch in range(work.epochs):
            sampler.set_epoch(epoch)
            rows = list(sampler)
            assert len(rows) == len(sampler)
            mine += rows
        size = work.global_batch // world_size
        for step in range(work.steps):
            steps[step] += mine[step * size : (step + 1) * size]
    return [set(step) for step in steps]


def test_data_that_end_begin_again_with_a_new_shuffle():
    # 70 sequences: passes of 4 steps of 16, and 6 sequences are left out of each.
    work = FixedWork(10, 3, None, 16, 512, sequences=70)
    steps = draw_steps(1, work)
    assert [len(step) for step in steps] == [16] * 10
    for first in (0, 4):
        assert len(set().union(*steps[first : first + 4])) == 64  # none twice in a pass
    assert steps[0] != steps[4] != steps[8]
    for world_size in (2, 4, 8, 16):
        assert draw_steps(world_size, work) == steps


def test_tokens_that_are_missing_are_told():
    work = FixedWork(2, 1, None, 16, 8, sequences=100)

    class Result:
        samples = 255

    with pytest.raises(TrainingError, match="trained on 255 tokens, not on 256"):
        check_tokens([Result()], work)
    Result.samples = 256
    assert check_tokens([Result()], work) == "Trained on 256 tokens, all of the fixed work"


def test_cosine_goes_down_to_a_tenth():
    factors = [cosine_decay(step, 101) for step in range(101)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)


# ---- Runs on 1, 2 and 4 processes, by every strategy -------------------------------------


@pytest.fixture(scope="module")
def short_tokens(tokens, tmp_path_factory) -> Path:
    """69 training and 21 validation sequences of 32 tokens: passes of 4 steps, uneven parts."""
    folder = tmp_path_factory.mktemp("short")
    for name, sequences in (("train_small.bin", 69), ("val_small.bin", 21)):
        (folder / name).write_bytes((tokens / name).read_bytes()[: 2 * (32 * sequences + 1)])
    (folder / "meta.json").write_bytes((tokens / "meta.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def runs(short_tokens, tmp_path_factory) -> Path:
    """What tests/gpt2_probe.py left on 1, 2 and 4 processes."""
    out = tmp_path_factory.mktemp("runs")
    for scale in SCALES:
        done = run_python(TESTS / "gpt2_probe.py", short_tokens, out, ranks=scale)
        assert done.returncode == 0, done.stderr[-3000:]
        (out / f"{scale}_log").write_text(done.stdout)
    return out


def read_losses(folder: Path) -> list[float]:
    epochs = load(folder / "training_metrics.json")["epochs"]
    names = ("train_loss_avg_global", "val_loss_avg_global")
    return [epoch[name] for epoch in epochs for name in names]


def load_last(folder: Path) -> dict:
    """The checkpoint of the last step, 6."""
    return torch.load(folder / "step_00000006.pt", weights_only=True)


def list_tensors(state, where: str = "") -> dict[str, torch.Tensor]:
    """All tensors of nested dictionaries, by their path."""
    if torch.is_tensor(state):
        return {where: state}
    if not isinstance(state, dict):
        return {}
    nested = (list_tensors(value, f"{where}.{name}") for name, value in state.items())
    return dict(chain.from_iterable(each.items() for each in nested))


def largest_difference(one: Path, other: Path) -> float:
    first, second = (load_last(folder / "checkpoints")["model"] for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize(("scale", "strategy"), RUNS)
def test_gradients_are_those_of_one_process(runs, scale, strategy):
    alone = torch.load(runs / "1_0.pt", weights_only=True)["ddp"][0]
    assert max(float(each.abs().max()) for each in alone.values()) > 0.01
    for rank in range(scale):
        gradients = torch.load(runs / f"{scale}_{rank}.pt", weights_only=True)[strategy][0]
        assert gradients.keys() == alone.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, alone[name], rtol=0, atol=1e-6)


def test_a_step_has_the_same_sequences_at_every_scale(runs):
    def read_steps(scale: int) -> list[set[int]]:
        ranks = [
            torch.load(runs / f"{scale}_{rank}.pt", weights_only=True)["ddp"][1]
            for rank in range(scale)
        ]
        return [set(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]

    assert [len(step) for step in read_steps(1)] == [16] * 6
    assert read_steps(1) == read_steps(2) == read_steps(4)


def test_loss_after_the_fixed_work_is_equal_at_every_scale(runs):
    losses = [read_losses(runs / f"{scale}_fixed_work") for scale in SCALES]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    assert losses[2] == pytest.approx(losses[0], abs=1e-3)
    assert losses[0][0] < math.log(2048) - 0.5  # it has learnt something


@pytest.mark.parametrize(
    ("scale", "name"), [*SHARDED, (4, "recomputed"), (4, "recomputed_fsdp"), (4, "tp_of_4")]
)
def test_every_strategy_trains_as_ddp_does(runs, scale, name):
    ddp, other = runs / f"{scale}_ddp", runs / f"{scale}_{name}"
    assert read_losses(other) == pytest.approx(read_losses(ddp), abs=1e-5)
    assert largest_difference(other, ddp) < 1e-3


@pytest.mark.parametrize("strategy", [*STRATEGIES[4], "tp_of_4"])
def test_losses_of_four_ranks_are_those_of_one_process(runs, strategy):
    alone, four = read_losses(runs / "1_ddp"), read_losses(runs / f"4_{strategy}")
    assert four == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_bytes_of_each_rank_drop_as_the_strategy_says(runs, scale):
    def read_bytes(strategy: str) -> dict[str, list[int]]:
        files = [
            runs / f"{scale}_{strategy}/rank{rank}_results_epoch1.json" for rank in range(scale)
        ]
        ranks = [load(path) for path in files]
        names = ("parameter_bytes", "gradient_bytes", "optimizer_bytes")
        return {name: [rank[name] for rank in ranks] for name in names}

    whole = 4 * load(runs / f"{scale}_ddp/run.json")["parameters"]
    counts = 4 * 28  # AdamW counts the steps of each of the 28 tensors
    ddp, zero1, fsdp = map(read_bytes, ("ddp", "zero1", "fsdp"))
    assert ddp["parameter_bytes"] == ddp["gradient_bytes"] == [whole] * scale
    assert ddp["optimizer_bytes"] == [2 * whole + counts] * scale
    assert zero1["parameter_bytes"] == zero1["gradient_bytes"] == [whole] * scale
    for shares in (zero1["optimizer_bytes"], fsdp["optimizer_bytes"]):
        assert sum(shares) == pytest.approx(2 * whole, rel=0.01)
    for name in ("parameter_bytes", "gradient_bytes"):
        assert sum(fsdp[name]) == whole
        assert max(fsdp[name]) <= 1.05 * whole / scale
    assert max(fsdp["optimizer_bytes"]) <= 1.05 * 2 * whole / scale
    for strategy in set(STRATEGIES[scale]) & {"zero2", "hsdp"}:  # hsdp: two ranks share a copy
        shares = 2 if strategy == "hsdp" else scale
        for name, values in read_bytes(strategy).items():
            parts = 2 if name == "optimizer_bytes" else 1
            assert max(values) == pytest.approx(parts * whole / shares, rel=0.02), name
    if "tp" in STRATEGIES[scale]:  # of each block two ranks share the matrices, and two biases
        cut = 4 * 2 * (12 * 64**2 + 7 * 64)
        for name, values in read_bytes("tp").items():
            parts = 2 if name == "optimizer_bytes" else 1
            expected = parts * (whole - cut / 2) + counts * (parts - 1)
            assert values == [expected] * scale, name
    # ZeRO-1 hands out whole tensors: the embedding alone is more than half of this small model.
    largest = max(2048 * 64, math.ceil(whole / 4 / scale))
    assert max(zero1["optimizer_bytes"]) <= 1.1 * 8 * largest


@pytest.mark.parametrize(("scale", "strategy"), CUT)
def test_cut_and_resumed_is_bit_equal(runs, scale, strategy):
    uncut = load_last(runs / f"{scale}_{strategy}_uncut/checkpoints")
    cut = load_last(runs / f"{scale}_{strategy}_resumed")
    return_to = list_tensors({name: uncut[name] for name in ("model", "optimizer")})
    went_on = list_tensors({name: cut[name] for name in ("model", "optimizer")})
    assert went_on.keys() == return_to.keys()
    assert len(return_to) == 28 + 3 * 28
    assert [name for name in went_on if not torch.equal(went_on[name], return_to[name])] == []
    assert cut["scheduler"]["last_epoch"] == uncut["scheduler"]["last_epoch"] == 6
    last = [read_losses(runs / f"{scale}_{strategy}_{name}")[-1] for name in ("cut", "uncut")]
    assert last[0] == last[1]
    assert "Going on after step 4, in epoch 2" in (runs / f"{scale}_log").read_text()


@pytest.mark.parametrize("strategy", STRATEGIES[2])
def test_the_probe_changes_nothing(runs, strategy):
    assert largest_difference(runs / f"2_{strategy}", runs / f"2_{strategy}_no_probe") == 0
    rank = load(runs / f"2_{strategy}/rank1_results_epoch0.json")
    assert rank["exposed_comm_s"] >= 0
    assert rank["probe"]["sync_pass_s"] > 0
    assert load(runs / f"2_{strategy}_no_probe/rank1_results_epoch0.json")["probe"] is None


@pytest.mark.parametrize(("name", "most"), [("sent_as_fp16", 0.02), ("sent_as_bf16", 0.05)])
def test_compressed_gradients_train_nearly_the_same(runs, name, most):
    difference = largest_difference(runs / "2_ddp", runs / f"2_{name}")
    assert 0 < difference < most
    assert read_losses(runs / f"2_{name}") == pytest.approx(read_losses(runs / "2_ddp"), abs=0.01)


def test_buckets_change_no_loss(runs):
    difference = largest_difference(runs / "2_ddp", runs / "2_small_buckets")
    assert difference < 1e-4
    assert load(runs / "2_small_buckets/run.json")["bucket_cap_mb"] == 0.1


def test_bf16_trains_nearly_the_same(runs):
    assert read_losses(runs / "2_bf16") == pytest.approx(read_losses(runs / "2_ddp"), abs=0.02)
    assert read_losses(runs / "2_bf16") != read_losses(runs / "2_ddp")
    assert read_losses(runs / "2_tp_bf16") == pytest.approx(read_losses(runs / "2_bf16"), abs=0.02)


@pytest.mark.parametrize(
    ("name", "groups", "replicas"),
    [("tp", "2 tensor groups of 2 x 4 x 2 passes", "equal (4 of 4), each sample once"),
     ("tp_of_4", "1 tensor group of 4 x 4 x 4 passes",
      "sharded, none to compare, each sample once")],
)  # fmt: skip
def test_ranks_of_a_tensor_group_share_a_batch(runs, name, groups, replicas):
    folder, log = runs / f"4_{name}", (runs / "4_log").read_text()
    run, metrics = load(folder / "run.json"), load(folder / "training_metrics.json")
    assert f"4 processes in {groups} = 16 samples per step" in log
    assert (run["world_size"], run["global_batch_size"], run["tokens"]) == (4, 16, 3072)
    assert run["tensor_parallel"] == (2 if name == "tp" else 4)
    assert load(runs / "4_ddp/run.json")["tensor_parallel"] is None
    assert run["replicas"] == replicas
    assert [epoch["tokens_processed_global"] for epoch in metrics["epochs"]] == [1536, 1536]
    ranks = [load(folder / f"rank{rank}_results_epoch1.json") for rank in range(4)]
    assert [rank["tokens"] for rank in ranks] == [1536 / 4] * 4
    assert {rank["exposed_comm_s"] for rank in ranks} == {None}
    assert read_training_metrics(folder / "training_metrics.json").world_size == 4
    assert read_training_metrics(folder / "training_metrics.json").notes == []


@pytest.mark.parametrize("scale", SCALES)
def test_a_run_leaves_the_files_of_the_contract(runs, scale):
    folder = runs / f"{scale}_ddp"
    ranks = {f"rank{r}_results_epoch{e}.json" for r in range(scale) for e in range(2)}
    others = {"run.json", "training_metrics.json", "RUN_COMPLETE.txt", "checkpoints"}
    assert {path.name for path in folder.iterdir()} == ranks | others
    rank = load(folder / "rank0_results_epoch1.json")
    assert rank["tokens"] == 3 * 16 * 32 / scale
    assert rank["tokens_per_sec"] == pytest.approx(rank["tokens"] / rank["training_time"])


@pytest.mark.parametrize("scale", SCALES)
def test_validation_counts_every_sequence_once(runs, scale):
    metrics = load(runs / f"{scale}_ddp/training_metrics.json")
    assert metrics["training_config"]["dataset_subset_sizes"] == {"train": 69, "val": 21}
    alone = load(runs / "1_ddp/training_metrics.json")["epochs"][0]["val_loss_avg_global"]
    assert metrics["epochs"][0]["val_loss_avg_global"] == pytest.approx(alone, abs=1e-4)


def test_epoch_line_has_perplexity_and_global_tokens(runs):
    log = (runs / "4_log").read_text()
    line = next(line for line in log.splitlines() if line.startswith("Epoch [2/2]"))
    seen = parse_epoch_line(line)
    epoch = load(runs / "4_ddp/training_metrics.json")["epochs"][1]
    assert seen.unit == "tokens/s"
    assert float(seen.throughput_per_s) == pytest.approx(epoch["tokens_per_sec_global"], abs=0.06)
    perplexity = re.search(r"Perplexity \(train, val\): ([\d.]+), ([\d.]+)", line)
    assert float(perplexity[2]) == pytest.approx(math.exp(epoch["val_loss_avg_global"]), abs=0.01)
    assert "Fixed work: 6 steps x 16 sequences x 32 tokens = 3,072 tokens, 1.39 times" in log
    assert "Trained on 3,072 tokens, all of the fixed work" in log
    assert "Best validation perplexity: " in log


# What the public benchmark's readers (kadamrahul18/GPT2-Optimization: verify_run_artifacts.py
# and generate_scaling_table.py) look for, and with what they calculate.
TOP_LEVEL = {
    "schema_version", "run_id", "timestamp_utc", "git_commit", "command_line", "env", "hardware",
    "training_config", "deepspeed_config", "epochs", "summary",
}  # fmt: skip


@pytest.mark.parametrize("name", ["2_ddp", "2_fixed_work"])
def test_the_public_readers_can_read_the_metrics(runs, name):
    metrics = load(runs / name / "training_metrics.json")
    assert metrics.keys() >= TOP_LEVEL
    assert metrics["schema_version"] == "2.0"
    assert metrics["hardware"]["world_size"] == 2
    config, last, summary = (
        metrics["training_config"], metrics["epochs"][-1], metrics["summary"]
    )  # fmt: skip
    expected = {
        "model_name": "gpt2", "model_size": "n_layer=2, n_head=4, n_embd=64", "seq_len": 32,
        "micro_batch_size_per_gpu": 4, "grad_accum_steps": 2, "global_batch_size": 16, "lr": 0.01,
        "optimizer": "AdamW", "precision": "fp32", "zero_stage": 0, "run_type": "optimized",
        "dataset_name": "train_small",
    }  # fmt: skip
    assert {field: config[field] for field in expected} == expected
    steps = 3 if name == "2_ddp" else 30
    assert (last["optimizer_steps"], last["micro_steps"]) == (steps, 2 * steps)
    assert last["tokens_processed_global"] == steps * 16 * 32
    # They print these with two decimals: a null would end them, even after a one-epoch run.
    assert summary["mean_tokens_per_sec_global"] == pytest.approx(last["tokens_per_sec_global"])
    assert summary["warmup_epochs_excluded"] == len(metrics["epochs"]) - 1
    assert summary["total_wall_time_sec"] > 0
    for field in ("python_version", "torch_version", "transformers_version", "deepspeed_version"):
        assert isinstance(metrics["env"][field], str)


# ---- What the issue asks for by name ----------------------------------------------------


def test_the_small_size_learns_on_a_cpu(tokens, tmp_path):
    """4 layers, width 128, vocabulary 2,048, sequence 128, 30 steps."""
    done = run_python(
        TRAINER, "--run_type", "baseline", "--layers=4",
        "--heads=4", "--width=128", "--seq_length", "128", "--micro_batch_size_per_gpu", "8",
        "--grad_accum_steps", "2", "--steps=30", "--epochs", "3", "--lr=0.001",
        "--train_data_path", tokens / "train_small.bin",
        "--val_data_path", tokens / "val_small.bin",
        "--checkpoint_path", tmp_path / "checkpoints", "--workdir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = read_losses(tmp_path / "run")
    assert losses[-2] < losses[0] - 0.5  # the last part's training loss against the first's
    assert losses[1] > losses[3] > losses[5]  # validation
    assert "30 steps x 16 sequences x 128 tokens = 61,440 tokens" in done.stdout
    run = load(tmp_path / "run/run.json")
    assert (run["run_type"], run["grad_accum_steps"]) == ("baseline", 2)


def test_one_step_of_gpt2_small(tokens, tmp_path):
    done = run_python(
        TRAINER, "--steps=1", "--global-batch-size=1",
        "--batch-size=1", "--seq-length=16", "--vocab-size=50257", "--limit-batches=1",
        f"--workdir={tmp_path}/run", DATA_DIR=str(tokens),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "run/run.json")["parameters"] == 124_439_808
    train_loss, val_loss = read_losses(tmp_path / "run")
    assert train_loss == pytest.approx(math.log(50_257), rel=0.03)  # no token is likelier yet
    assert val_loss < train_loss
    rank = load(tmp_path / "run/rank0_results_epoch0.json")
    assert rank["parameter_bytes"] == rank["gradient_bytes"] == 4 * 124_439_808


def test_compiled_model_trains_the_same(runs, short_tokens, tmp_path):
    """On whole batches alone: for the last, which is smaller, all would be compiled once more."""
    done = run_python(
        TRAINER, *SMALL, "--layers=1", "--steps=2", "--limit-batches=4", "--no-probe",
        "--lr=0.01", f"--workdir={tmp_path}/run", "--compile", DATA_DIR=str(short_tokens),
        TORCHINDUCTOR_COMPILE_THREADS=1,  # a pool of others would import PyTorch first
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = read_losses(tmp_path / "run")
    assert losses == pytest.approx(read_losses(runs / "1_one_layer"), abs=1e-4)


def test_sections_are_those_of_train_in_its_order():
    headings = [
        re.findall(r"^# ---- (.+?) -+$", (SCRIPTS / name).read_text(), re.MULTILINE)
        for name in ("train.py", "train_gpt2.py")
    ]
    assert headings[0] == headings[1]
    functions = [
        re.findall(r"^def (\w+)", (SCRIPTS / name).read_text(), re.MULTILINE)
        for name in ("train.py", "train_gpt2.py")
    ]
    assert functions[0] == functions[1]


# ---- Arguments --------------------------------------------------------------------------


@pytest.fixture
def call_main(monkeypatch, short_tokens):
    """Call main() with command-line arguments, as rank 0 of `world_size`: it must refuse."""

    def call(*args, world_size: int = 1) -> None:
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        monkeypatch.setenv("DATA_DIR", str(short_tokens))
        monkeypatch.delenv("RANK", raising=False)
        monkeypatch.setattr("sys.argv", ["train_gpt2.py", *map(str, args)])
        train_gpt2.main(parse_args())

    return call


def test_vocabulary_is_the_datas_or_gpt2s(tokens, tmp_path):
    assert choose_vocab_size(None, tokens / "train_small.bin") == 2048
    assert choose_vocab_size(None, tmp_path / "a.bin") == 50_257  # no meta.json says
    assert choose_vocab_size(7, tokens / "train_small.bin") == 7


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strategy=fsdp", "--grad-compression=fp16"], "a hook of DDP, which --strategy fsdp"),
        (["--strategy=zero2", "--bucket-cap-mb=5"], "--bucket-cap-mb is DDP's"),
        (["--strategy=hsdp"], "a copy of the model in each group of 1 ranks, and here are 1"),
        (["--strategy=fsdp", "--shard-group=2"], "--shard-group goes with --strategy hsdp"),
        (["--strategy=ddp", "--deepspeed_config=x"], "--deepspeed-config goes with --strategy de"),
        (["--tensor-parallel=2"], "--tensor-parallel goes with --strategy tp, not ddp"),
        (["--strategy=tp"], "cuts each block among 1 ranks of a node, and here are 1 on one"),
    ],
)
def test_options_that_do_not_go_together(args, message, call_main):
    with pytest.raises(TrainingError, match=re.escape(message)):
        call_main(*args)


def test_meta_json_without_a_vocabulary(call_main, tmp_path):
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(TrainingError, match=r"meta\.json does not say the vocab_size"):
        call_main(f"--train-data-path={tmp_path}/train.bin")


@pytest.mark.parametrize(
    ("args", "world_size", "message"),
    [
        (["--epochs=4", "--steps=3"], 1, "--steps 3 cannot be cut into --epochs 4 parts"),
        (["--grad_accum_steps=3"], 2, "--grad-accum-steps 3 does not make 16 samples of 4 on 2"),
        ([], 3, "a global batch of 16 is no multiple of 3 ranks x 4 samples"),
        (["--global-batch-size=80", "--batch-size=80"], 1, "69 training samples are less than"),
        (["--strategy=tp", "--tensor-parallel=2"], 3, "among 2 ranks of a node, and here are 3"),
        (["--strategy=tp"], 8, "whole heads to each of 8 ranks, and --heads 4 is no multiple"),
    ],
)
def test_work_that_cannot_be_shared_is_refused_before_the_ranks_meet(
    args, world_size, message, call_main, tmp_path
):
    with pytest.raises(TrainingError, match=re.escape(message)):
        call_main(*SMALL, *args, f"--workdir={tmp_path}/run", world_size=world_size)
    assert not (tmp_path / "run").exists()
    assert not torch.distributed.is_initialized()


def test_a_checkpoint_of_another_size_is_refused(runs, short_tokens, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    content = torch.load(runs / "1_ddp/checkpoints/step_00000006.pt", weights_only=True)
    content |= {"epoch": 1, "step": 0}
    torch.save(content, folder / "step_00000003.pt")
    done = run_python(
        TRAINER, *SMALL, "--layers=1", "--steps=6",
        "--epochs=2", f"--workdir={tmp_path}/run", f"--checkpoint-dir={folder}",
        DATA_DIR=str(short_tokens),
    )  # fmt: skip
    assert done.returncode == 1
    assert "the checkpoint does not fit this model" in done.stderr
    assert done.stderr.count("\n") == 1


# ---- DeepSpeed --------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_deepspeed_that_is_not_installed_is_one_line(tokens, tmp_path):
    done = run_python(
        TRAINER, "--local_rank=0", "--deepspeed_config",
        "ds.json", f"--workdir={tmp_path}/run", DATA_DIR=str(tokens),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "needs DeepSpeed, which is not installed: pip install deepspeed" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_deepspeed_trains_like_ddp(runs, short_tokens, tmp_path, stage):
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    done = run_python(
        TRAINER, *SMALL, "--steps=6", "--epochs=2", "--lr=0.01", "--grad-clip=0.5",
        "--warmup-steps=1", f"--deepspeed_config={config}", f"--workdir={tmp_path}/run",
        ranks=2, DATA_DIR=str(short_tokens),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_losses(tmp_path / "run") == pytest.approx(read_losses(runs / "2_ddp"), abs=1e-3)
    metrics = load(tmp_path / "run/training_metrics.json")
    assert metrics["deepspeed_config"]["selected"]["zero_stage"] == stage
    assert len(metrics["deepspeed_config"]["sha256"]) == 64
