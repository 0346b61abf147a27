"""Predict the memory that a training takes on a GPU, without one and before it is submitted.

    echo '[{"trainer": "train.py", "words": ["--batch-size=256"], "world_size": 4}]' |
        python -m training.memory_estimate

Reads a list of requests from stdin and prints one answer for each: MiB of the peak and its parts,
or {"error": why}. `words` are the trainer's own. The model trains one step on fake tensors, which
have shapes but no numbers: it takes seconds, whatever the batch, and no memory.

PyTorch has no public tool for this. What is used of its private ones is in this file alone.
"""

import contextlib
import importlib
import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from training import TrainingError

MIB = 2**20
_tracked: dict[tuple, tuple[dict, float, tuple[int, int]]] = {}
CLASSES = 200  # of TinyImageNet
MANY = 10**9  # samples: how many there are does not matter here
SHARES = {  # strategy -> what a rank holds a share of: parameters, gradients, optimizer
    "ddp": (False, False, False),
    "zero1": (False, False, True),
    "zero2": (False, True, True),  # parameters are whole during the passes
    "fsdp": (True, True, True),
    "hsdp": (True, True, True),
}


def answer(request: dict) -> dict:
    """Return what one request asks for; {"error": …} where it cannot be said."""
    try:
        trainer, words = request["trainer"], [str(word) for word in request["words"]]
        if trainer not in TRAINERS:
            return {"error": f"{trainer} is not estimated, only {' and '.join(TRAINERS)}"}
        with ranks(request.get("world_size", 1), request.get("local_world_size")):
            return estimate(trainer, read_words(trainer, words), request)
    except (TrainingError, ImportError, NotImplementedError) as error:
        return {"error": str(error)}


@contextlib.contextmanager
def ranks(world_size: int, local_world_size: int | None) -> Iterator[None]:
    """Let the trainer's own rules read the number of ranks where torchrun would put it."""
    names = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": local_world_size or world_size}
    before = {name: os.environ.get(name) for name in names}
    os.environ |= {name: str(number) for name, number in names.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def read_words(trainer: str, words: list[str]) -> Namespace:
    """Read a command line as the trainer does; TrainingError with its own complaint."""
    argv, said = sys.argv, io.StringIO()
    os.environ.setdefault("DATA_DIR", ".")  # nothing is read there
    sys.argv = [trainer, *words]
    try:
        with contextlib.redirect_stderr(said):
            return importlib.import_module(TRAINERS[trainer][0]).parse_args()
    except SystemExit:
        raise TrainingError(said.getvalue().strip().removeprefix("error: ")) from None
    finally:
        sys.argv = argv


def estimate(trainer: str, args: Namespace, request: dict) -> dict:
    """Return the answer for a trainer's arguments."""
    from training.batches import plan_batch

    is_gpu = request.get("device", "cuda") == "cuda"
    precision = args.precision or ("fp16" if is_gpu else "fp32")
    batch = plan_batch(args, MANY).per_gpu
    strategy = getattr(args, "strategy", "ddp")
    if strategy not in SHARES:
        raise TrainingError(f"--strategy {strategy} is not estimated")
    if getattr(args, "run_type", "") == "baseline":
        strategy = "alone"  # without DDP, whose buckets hold the gradients all the time
    make = TRAINERS[trainer][1]
    make_step = make(args, request.get("classes", CLASSES), is_gpu)
    case = (trainer, *request["words"], batch, precision, strategy == "alone", is_gpu)
    if case not in _tracked:  # the other scales of a study are the same to a GPU
        few, many = (
            track(make_step, size, precision, strategy != "alone") for size in (batch, 16 * batch)
        )
        per_sample = (sum(many.values()) - sum(few.values())) / (15 * batch)
        _tracked[case] = few, per_sample, make_step.units
    parts, per_sample, units = _tracked[case]
    parts = parts | share_out(parts, strategy, args, units)
    peak = sum(parts.values())
    return {
        "batch": batch,
        "precision": precision,
        "strategy": "one process" if strategy == "alone" else strategy,
        "torch": torch.__version__,
        "peak_mib": peak / MIB,
        "per_sample_mib": per_sample / MIB,
        "fixed_mib": (peak - batch * per_sample) / MIB,
        **{f"{name}_mib": size / MIB for name, size in parts.items()},
    }


def share_out(parts: dict, strategy: str, args: Namespace, units: tuple[int, int]) -> dict:
    """What a rank holds of parameters, gradients and optimizer, from all of them.

    fully_shard gathers in units. What belongs to no block, the embeddings, is whole from the first
    to the last, and so is its gradient; of the blocks two are whole, the one that computes and the
    next one on its way, and one's gradient before it is reduced. units: bytes of the largest block
    and of what belongs to none.
    """
    names = ("parameters", "gradients", "optimizer")
    shares = SHARES.get(strategy, SHARES["ddp"])
    ranks = int(os.environ["WORLD_SIZE"])
    if strategy == "hsdp":
        from training.gpt2.sharding import find_shard_group

        ranks = find_shard_group(args.shard_group)
    held = {
        name: parts[name] // ranks if shared else parts[name]
        for name, shared in zip(names, shares, strict=True)
    }
    if strategy == "zero2":  # the share that is kept, beside the whole that is gathered
        held["parameters"] += parts["parameters"] // ranks
    block, root = units
    if shares[0]:
        held["parameters"] += min(root + 2 * block, parts["parameters"])
    if shares[1]:
        held["gradients"] += min(root + block, parts["gradients"])
    return held


# ---- One step, tracked ---------------------------------------------------------------------


def track(make_step: Callable, batch: int, precision: str, has_ddp: bool) -> dict[str, int]:
    """Return the bytes at the peak of a step: parameters, gradients, optimizer, activations.

    ImportError where this PyTorch has not the tools.
    """
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.distributed._tools.mem_tracker import MemTracker
    except ImportError as error:
        raise ImportError(
            f"PyTorch {torch.__version__} has no tracker of memory ({error}): memory is not "
            "estimated"
        ) from None
    # Fake tensors of the CPU: those of a GPU want its driver. Their sizes are the same.
    with FakeTensorMode(), torch.device("cpu"):
        return track_step(MemTracker(), make_step, batch, precision, has_ddp)


def track_step(tracker, make_step: Callable, batch: int, precision: str, has_ddp: bool) -> dict:
    """Do it with the tensors that the surrounding mode makes, fake or real."""
    model, optimizer, step, validate = make_step(batch)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # its state is there from now on
    if not has_ddp:
        optimizer.zero_grad(set_to_none=True)
    tracker.track_external(model, optimizer)
    # bfloat16 has the size of float16, with which CPUs do less.
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32")
    with tracker:
        step(mixed)
        optimizer.step()
        if validate:
            tracker.reset_mod_stats()
            validate(mixed)
    peak: dict[str, int] = {}
    for each in tracker.get_tracker_snapshot("peak").values():  # one per device
        for name, size in each.items():
            peak[getattr(name, "value", name)] = peak.get(getattr(name, "value", name), 0) + size
    held = {
        "parameters": peak["Parameter"] + peak["Buffer"],
        "gradients": peak["Gradient"],
        "optimizer": peak["Optstate"],
    }
    return held | {"activations": peak["Total"] - sum(held.values())}


# ---- The trainers' models and steps --------------------------------------------------------


def make_images(args: Namespace, classes: int, is_gpu: bool) -> Callable:
    """train.py's step: of a model of torchvision."""
    import torchvision

    def make_step(batch: int):
        model = torchvision.models.get_model(args.model, num_classes=classes)
        optimizer = torch.optim.SGD(model.parameters(), args.lr, args.momentum, fused=True)
        images = torch.zeros(batch, 3, args.image_size, args.image_size)
        labels = torch.zeros(batch, dtype=torch.int64)

        def step(mixed) -> None:
            with mixed:
                loss = cross_entropy(model(images), labels)
            loss.backward()

        return model, optimizer, step, None

    make_step.units = (0, 0)
    return make_step


def make_gpt2(args: Namespace, classes: int, is_gpu: bool) -> Callable:
    """train_gpt2.py's step, and its validation, which makes all logits at once."""
    from training.gpt2 import loss as output
    from training.gpt2.data import choose_vocab_size
    from training.gpt2.model import GPT2, split_decayed

    vocabulary = choose_vocab_size(args.vocab_size, args.train_data_path)
    if is_gpu:
        output.CPU_LOGITS = output.GPU_LOGITS

    def make_step(batch: int):
        model = GPT2(args.layers, args.heads, args.width, vocabulary, args.dropout)
        model.checkpoint_activations(args.activation_checkpointing)
        in_blocks = [*map(count_bytes, model.blocks)]
        make_step.units = (max(in_blocks), count_bytes(model) - sum(in_blocks))
        groups = split_decayed(model, args.weight_decay)
        optimizer = torch.optim.AdamW(groups, args.lr, fused=True)
        tokens = torch.zeros(batch, args.seq_length, dtype=torch.int64)

        def step(mixed) -> None:
            with mixed:
                loss = model(tokens, tokens)
            loss.backward()

        def validate(mixed) -> None:
            with mixed, torch.no_grad():
                cross_entropy(model.eval()(tokens).flatten(0, 1).float(), tokens.flatten())

        return model, optimizer, step, validate

    return make_step


def count_bytes(module: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in module.parameters())


TRAINERS: dict[str, tuple[str, Callable]] = {  # trainer -> where its options are, its step
    "train.py": ("training.images.arguments", make_images),
    "train_gpt2.py": ("training.gpt2.arguments", make_gpt2),
}


def main() -> int:
    print(json.dumps([answer(request) for request in json.load(sys.stdin)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
