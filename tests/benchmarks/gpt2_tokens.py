"""Tokens a second of train_gpt2.py against transformers' GPT2LMHeadModel in a plain loop.

    python tests/benchmarks/gpt2_tokens.py [--pairs 24] [--json FILE] [--batch-size 4]

Both train the same model: 4 layers, width 128, vocabulary 2,048, sequences of 128 tokens, 16 of
them a step in passes of 4, AdamW, gradient clipping, no dropout, fp32, one process, one thread.
The plain loop is what the library's documentation shows: the model's own loss, accumulated, and
loss.item() for the log. Ours is the trainer's own loop with its loader, clock and records. One
process trains a step by the one and a step by the other, in turn: the ratio of neighbours depends
little on what else the machine does, and the median of all pairs is what counts. On a machine
with more to do than CPUs, the ratio by CPU time is the one to trust.

transformers is installed from PyPI into .venv/peers/transformers, for this alone. The bar is 1.2.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from datetime import date
from io import StringIO
from itertools import islice
from pathlib import Path
from statistics import median

REPO = Path(__file__).resolve().parent.parent.parent
PEERS = REPO / ".venv/peers/transformers"
sys.path[:0] = [str(REPO / "scripts")]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch  # noqa: E402
import train_gpt2  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from training.batches import plan_batch  # noqa: E402
from training.gpt2_work import plan_work  # noqa: E402
from training.run import TrainingRun  # noqa: E402

BAR = 1.2
LAYERS, HEADS, WIDTH, VOCABULARY, LENGTH, GLOBAL_BATCH = 4, 4, 128, 2048, 128, 16
SEGMENT = 1  # steps before it is the other's turn
PARTS = 1_000_000


class OurTrainer:
    """train_gpt2.py, a segment an epoch."""

    name = "train_gpt2.py"

    def __init__(self, folder: Path, batch_size: int, *options: str):
        os.environ["DATA_DIR"] = str(folder / "tokens")
        sys.argv = [
            "train_gpt2.py", f"--workdir={folder}/results", "--no-probe", "--precision=fp32",
            f"--layers={LAYERS}", f"--heads={HEADS}", f"--width={WIDTH}", f"--seq-length={LENGTH}",
            f"--batch-size={batch_size}", f"--global-batch-size={GLOBAL_BATCH}",
            f"--steps={SEGMENT * PARTS}", f"--epochs={PARTS}", *options,
        ]  # fmt: skip
        self.args = args = train_gpt2.parse_args()
        args.workdir.mkdir()
        self.sets = train_set, val_set = train_gpt2.load_data(args)
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

    def train(self) -> None:
        self.sampler.set_epoch(self.epoch)
        self.epoch += 1
        train_gpt2.train_one_epoch(self.args, self.run, self.loader, *self.learner)


class PlainLoop:
    """GPT2LMHeadModel as its documentation trains it."""

    name = "transformers, plain loop"

    def __init__(self, train_set, batch_size: int):
        sys.path.append(str(PEERS))  # behind our own packages: torch and numpy are the same
        import transformers

        self.version = transformers.__version__
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, n_positions=1024,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        )  # fmt: skip
        self.model = transformers.GPT2LMHeadModel(config)
        self.accum = GLOBAL_BATCH // batch_size
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1)
        self.batches = iter(DataLoader(train_set, batch_size, shuffle=True, drop_last=True))
        self.logged: list[float] = []

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


def install_peer() -> None:
    """Install transformers where only this benchmark finds it; it needs no second PyTorch."""
    if PEERS.exists():
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", PEERS, "transformers"]
    subprocess.run(pip, check=True)


def time_pair(ours: OurTrainer, plain: PlainLoop, ours_first: bool) -> dict[str, float]:
    """Seconds of one segment of each, by the wall and of this process's CPU time."""
    seconds = {}
    for name in ("ours", "plain") if ours_first else ("plain", "ours"):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        (ours if name == "ours" else plain).train()
        seconds[f"{name}_s"] = time.perf_counter() - began_s
        seconds[f"{name}_cpu_s"] = time.process_time() - began_cpu_s
    return seconds


def measure(count: int, batch_size: int, options: list[str]) -> dict:
    """Time `count` pairs of segments."""
    with tempfile.TemporaryDirectory() as name, redirect_stdout(StringIO()):
        folder = Path(name)
        prepare = [sys.executable, REPO / "scripts/prepare_data.py", "gpt2", folder / "tokens"]
        prepare += ["--vocab-size", str(VOCABULARY), "--max-bytes", "2000000"]
        subprocess.run(prepare, check=True, capture_output=True)
        ours = OurTrainer(folder, batch_size, *options)
        plain = PlainLoop(ours.sets[0], batch_size)
        parameters = sum(each.numel() for each in plain.model.parameters())
        assert parameters == ours.args.parameters, "not the same model"
        try:
            time_pair(ours, plain, True)  # warms up
            pairs = [time_pair(ours, plain, number % 2 == 0) for number in range(count)]
        finally:
            torch.distributed.destroy_process_group()
    return summarize(pairs, plain.version, batch_size, parameters)


def summarize(pairs: list[dict], version: str, batch_size: int, parameters: int) -> dict:
    tokens = SEGMENT * GLOBAL_BATCH * LENGTH
    ratios = sorted(pair["plain_s"] / pair["ours_s"] for pair in pairs)
    return {
        "n": len(pairs),
        "ratio": median(ratios),
        "ratio_quarter": ratios[len(ratios) // 4],
        "ratio_three_quarters": ratios[len(ratios) * 3 // 4],
        "ratio_cpu": median(pair["plain_cpu_s"] / pair["ours_cpu_s"] for pair in pairs),
        "ours_tokens_per_s": tokens / median(pair["ours_s"] for pair in pairs),
        "plain_tokens_per_s": tokens / median(pair["plain_s"] for pair in pairs),
        "bar": BAR,
        "batch_size": batch_size,
        "parameters": parameters,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"transformers {version}",
        "pairs": pairs,
    }


def format_table(result: dict) -> str:
    """The result as Markdown."""
    head = (
        "| trainer | tokens/s | ratio | ratio by CPU time | bar |\n| :-- | --: | --: | --: | --: |"
    )
    return (
        f"{head}\n"
        f"| {PlainLoop.name} | {result['plain_tokens_per_s']:,.0f} | 1 | 1 | |\n"
        f"| {OurTrainer.name} | {result['ours_tokens_per_s']:,.0f} | {result['ratio']:.2f} "
        f"({result['ratio_quarter']:.2f} to {result['ratio_three_quarters']:.2f}) "
        f"| {result['ratio_cpu']:.2f} | {result['bar']} |\n\n"
        f"Median of {result['n']} pairs (in brackets its middle half), a step of "
        f"{GLOBAL_BATCH} sequences each, {result['batch_size']} a pass; "
        f"{result['versions']}; {result['machine']}; {result['date']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=24, help="of steps (default: 24)")
    parser.add_argument("--batch-size", type=int, default=4, help="a pass (default: 4)")
    parser.add_argument("--json", type=Path, help="write the result there (default: nowhere)")
    args, options = parser.parse_known_args()  # the rest goes to train_gpt2.py
    install_peer()
    result = measure(args.pairs, args.batch_size, options)
    print(format_table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["ratio"] >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
