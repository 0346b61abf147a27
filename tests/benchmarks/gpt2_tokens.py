"""Tokens per second of train_gpt2.py against transformers' GPT2LMHeadModel in a plain loop.

    python tests/benchmarks/gpt2_tokens.py     # 12 rounds of 4 steps each; the bar is 1.2

Both train the same model: 4 layers, width 128, vocabulary 2,048, sequences of 128 tokens, 16 of
them a step in passes of 4, AdamW, gradient clipping, no dropout, fp32, one process, one thread.
The plain loop is what the library's documentation shows: the model's own loss, accumulated, and
loss.item() for the log. Ours is the trainer's own loop with its loader, clock and records. Each is
a process of its own, and they train a few steps in turn. Judged by CPU seconds,
since one thread is what is compared; the ratio by the wall stands beside it.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from measure import (
    SCRIPTS,
    Worker,
    add_peer,
    by_clock,
    describe_machine,
    parse_options,
    report,
    run_interleaved,
    serve,
    summarise,
)

sys.path.insert(0, str(SCRIPTS))

import torch
from torch.utils.data import DataLoader

import train_gpt2
from training.batches import plan_batch
from training.device import keep_freed_memory
from training.gpt2.data import TokenSequences
from training.gpt2.work import plan_work
from training.run import TrainingRun

LAYERS, HEADS, WIDTH, VOCABULARY, LENGTH, GLOBAL_BATCH = 4, 4, 128, 2048, 128, 16
SEGMENT = 4  # steps before it is the other's turn
PARTS = 1_000_000
PARAMETERS = 1_186_560


def main() -> None:
    options = parse_options(
        __doc__.splitlines()[0],
        rounds=12,
        batch_size={"type": int, "default": 4, "help": "sequences per pass (default: 4)"},
        worker={"help": "one of the two (for itself)"},
        data={"type": Path, "help": "its tokens (for itself)"},
    )
    if options.worker:
        return serve_one(options.worker, options.data, options.batch_size)
    add_peer("transformers", "transformers")
    with tempfile.TemporaryDirectory() as name:
        prepare = [sys.executable, SCRIPTS / "prepare_data.py", "gpt2", f"{name}/tokens"]
        prepare += ["--vocab-size", str(VOCABULARY), "--max-bytes", "2000000"]
        subprocess.run(prepare, check=True, capture_output=True)
        more = ("--data", f"{name}/tokens", "--batch-size", options.batch_size)
        workers = [Worker(__file__, kind, *more) for kind in (PlainLoop.name, OurTrainer.name)]
        cases = {PlainLoop.name: workers[0].run, OurTrainer.name: workers[1].run}
        found = run_interleaved(cases, options.rounds)
        for worker in workers:
            worker.close()
    row = summarise("GPT-2, tokens per CPU s", ">= 1.2", by_clock(found, "cpu_s"), *cases, row="8")
    by_wall = by_clock(found, "wall_s")
    row["ratio_wall"] = median(a / b for a, b in zip(*by_wall.values(), strict=True))
    tokens = SEGMENT * GLOBAL_BATCH * LENGTH
    row["tokens_per_cpu_s"] = {case: tokens / each for case, each in row["median_s"].items()}
    row["steps"] = SEGMENT * options.rounds
    report("gpt2_tokens", [row], describe_machine("torch", "transformers"), options.out)
    return None


def serve_one(name: str, tokens: Path, batch_size: int) -> None:
    """Be the process of one of the two."""
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(sys.stderr):
            kind = OurTrainer if name == OurTrainer.name else PlainLoop
            trainer = kind(Path(folder), tokens, batch_size)
        if sum(each.numel() for each in trainer.parameters()) != PARAMETERS:
            raise SystemExit("error: not the same model")
        serve(trainer.train)


class OurTrainer:
    """train_gpt2.py, a segment an epoch."""

    name = "train_gpt2.py"

    def __init__(self, folder: Path, tokens: Path, batch_size: int):
        os.environ["DATA_DIR"] = str(tokens)
        keep_freed_memory()  # as launch() does
        sys.argv = [
            "train_gpt2.py", f"--workdir={folder}/results", "--no-probe", "--precision=fp32",
            f"--layers={LAYERS}", f"--heads={HEADS}", f"--width={WIDTH}", f"--seq-length={LENGTH}",
            f"--batch-size={batch_size}", f"--global-batch-size={GLOBAL_BATCH}",
            f"--steps={SEGMENT * PARTS}", f"--epochs={PARTS}",
        ]  # fmt: skip
        self.args = args = train_gpt2.parse_args()
        args.vocab_size = train_gpt2.choose_vocab_size(args.vocab_size, args.train_data_path)
        args.workdir.mkdir()
        train_set, val_set = train_gpt2.load_data(args)
        plan = plan_batch(args, len(train_set))
        work = plan_work(args, plan, len(train_set))
        device = train_gpt2.init_distributed(60)
        self.loader, self.sampler, _ = train_gpt2.build_loaders(
            args, plan, work, train_set, val_set, device
        )
        self.learner = train_gpt2.build_model(args, plan, work, device)
        settings = train_gpt2.describe_run(args, plan, work, train_set, val_set)
        path = Path(train_gpt2.__file__)
        self.run = TrainingRun(args, settings, device, path, *self.learner)
        self.epoch = 0

    def parameters(self):
        return self.learner[0].parameters()

    def train(self) -> None:
        self.sampler.set_epoch(self.epoch)
        self.epoch += 1
        train_gpt2.train_one_epoch(self.args, self.run, self.loader, *self.learner)


class PlainLoop:
    """GPT2LMHeadModel as its documentation trains it."""

    name = "transformers, plain loop"

    def __init__(self, _folder: Path, tokens: Path, batch_size: int):
        add_peer("transformers", "transformers")
        import transformers

        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, n_positions=1024,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        )  # fmt: skip
        self.model = transformers.GPT2LMHeadModel(config)
        self.accum = GLOBAL_BATCH // batch_size
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1)
        train_set = TokenSequences(tokens / "train_small.bin", LENGTH, VOCABULARY)
        self.batches = iter(DataLoader(train_set, batch_size, shuffle=True, drop_last=True))
        self.logged: list[float] = []

    def parameters(self):
        return self.model.parameters()

    def train(self) -> None:
        self.model.train()
        for _ in range(SEGMENT):
            step_loss = 0.0
            for inputs, _ in islice(self.batches, self.accum):
                loss = self.model(input_ids=inputs, labels=inputs).loss / self.accum
                loss.backward()
                step_loss += loss.item()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.logged.append(step_loss)


if __name__ == "__main__":
    main()
