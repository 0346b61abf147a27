"""DeepSpeed as one more strategy: its engine does the scaling, the averaging and the step.

Written for and tried with DeepSpeed 0.19 (stages 0 to 3). Its own words for what is called here:
the documentation of deepspeed.initialize and of the training API of DeepSpeedEngine.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os

import torch
from torch import nn

from training import TrainingError

DEFAULTS = {"zero_optimization": {"stage": 1}}
# What the options of the trainer say; the file's word on these would make runs differ silently.
OURS = ("optimizer", "scheduler", "train_batch_size")


def check_deepspeed(args) -> None:
    """Read --deepspeed-config into args.deepspeed; TrainingError when DeepSpeed cannot be used."""
    if args.strategy != "deepspeed":
        if args.deepspeed_config:
            raise TrainingError(
                f"--deepspeed-config goes with --strategy deepspeed, not {args.strategy}; "
                "leave one of them out"
            )
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise TrainingError(
            "--strategy deepspeed needs DeepSpeed, which is not installed: pip install deepspeed, "
            "or choose --strategy zero1 or fsdp, which come with PyTorch"
        )
    args.deepspeed = read_config(args.deepspeed_config) if args.deepspeed_config else DEFAULTS
    asked = find_precision(args.deepspeed)
    if args.precision not in (None, asked) and args.deepspeed_config:
        raise TrainingError(
            f"--precision {args.precision}, but {args.deepspeed_config} asks for {asked}; "
            "leave --precision out"
        )
    if args.deepspeed_config:
        args.precision = asked
    if args.checkpoint_every:
        raise TrainingError(
            "--checkpoint-every: the state of DeepSpeed's optimizer cannot be saved here; leave "
            "it out, or choose --strategy zero1 or fsdp"
        )
    args.no_probe = True  # it has no passes without synchronisation


def read_config(path) -> dict:
    """Read DeepSpeed's JSON file; TrainingError when it is none."""
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict):
            raise ValueError("no object")
    except OSError as error:
        raise TrainingError(f"cannot read --deepspeed-config {path}: {error.strerror}") from None
    except ValueError as error:
        raise TrainingError(f"--deepspeed-config {path} is no JSON object: {error}") from None
    return config


def find_precision(config: dict) -> str:
    for name in ("fp16", "bf16"):
        if config.get(name, {}).get("enabled"):
            return name
    return "fp32"


def describe_deepspeed(args) -> dict:
    """What run.json and training_metrics.json say of the configuration."""
    if args.strategy != "deepspeed":
        return {}
    path, stage = args.deepspeed_config, find_stage(args.deepspeed)
    return {
        "zero_stage": stage,
        "deepspeed_config": {
            "path": str(path) if path else "none",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path else "none",
            "selected": {
                "zero_stage": stage,
                "fp16_enabled": find_precision(args.deepspeed) == "fp16",
                "wall_clock_breakdown": args.deepspeed.get("wall_clock_breakdown", False),
            },
            "version": importlib.metadata.version("deepspeed"),
        },
    }


def find_stage(config: dict) -> int:
    return int(config.get("zero_optimization", {}).get("stage", 0))


def start_deepspeed(args, plan, model: nn.Module, optimizer, scheduler):
    """Return (engine, optimizer, scheduler, scaler) that the training loop can use like its own.

    Batch sizes, clipping, optimizer and schedule are those of the options, whatever the file says.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    config = {name: value for name, value in args.deepspeed.items() if name not in OURS}
    config |= {
        "train_micro_batch_size_per_gpu": plan.per_gpu,
        "gradient_accumulation_steps": plan.grad_accum_steps,
        "gradient_clipping": args.grad_clip,
        "zero_allow_untested_optimizer": True,
    }
    config.setdefault("steps_per_print", 2**31)  # the log has the epoch lines
    if args.precision == "bf16":
        config["bf16"] = {"enabled": True}
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )
    return engine, optimizer, scheduler, EngineScaler(engine)


class EngineScaler:
    """A DeepSpeed engine that is spoken to like torch.amp.GradScaler."""

    def __init__(self, engine):
        self.engine, self.loss = engine, None

    def scale(self, loss: torch.Tensor) -> "EngineScaler":
        self.loss = loss
        return self

    def backward(self) -> None:
        # The loss is divided by the passes already; the engine would do it once more.
        self.engine.backward(self.loss, scale_wrt_gas=False)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # counts the pass, and makes no step yet

    def step(self, _optimizer) -> None:
        self.engine.step()

    def update(self) -> None:
        pass

    def state_dict(self) -> dict:
        raise TrainingError("--strategy deepspeed cannot be saved; choose zero1 or fsdp")
