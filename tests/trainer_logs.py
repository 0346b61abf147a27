"""Short logs of other trainers, after their documentation and source, with the noise of real ones.

Each function returns the log of a run on so many GPUs whose throughput, warm-up left out, is the
number beside it in STUDY: 1000 per GPU on one GPU, then 5 % less with each doubling.
"""

import math

SCALES = ((1, 1), (1, 2), (1, 4), (2, 4))  # nodes, GPUs per node
WINDOWS = 10  # the first is warm-up: half as fast


def rate(gpus: int) -> float:
    """Of the whole job, after warm-up: 1000, 1900, 3600, 6800."""
    return gpus * (1000 - 50 * math.log2(gpus))


def rates(gpus: int) -> list[float]:
    return [rate(gpus) / 2] + [rate(gpus)] * (WINDOWS - 1)


def write(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def torchvision(gpus: int) -> str:
    lines = [
        f"| distributed init (rank {rank}): env://" for rank in range(gpus)
    ] if gpus > 1 else ["Not using distributed mode"]  # fmt: skip
    lines += [
        f"Namespace(data_path='/data', model='resnet50', device='cuda', batch_size=32, epochs=2, "
        f"workers=16, lr=0.1, world_size={gpus}, dist_url='env://')",
        "Loading data", "Took 1.2345", "Start training",
        "/opt/torch/optim/lr_scheduler.py:1: UserWarning: Detected call of `lr_scheduler.step()`",
    ]  # fmt: skip
    for number, per_s in enumerate(rates(gpus)):
        epoch, step = divmod(number, WINDOWS // 2)
        lines.append(
            f"Epoch: [{epoch}]  [{step * 10:4d}/5005]  eta: 1:02:03  lr: 0.1  img/s: "
            f"{per_s / gpus}  loss: {7 - number / 10:.4f} (6.9100)  acc1: 0.0000 (0.1)  acc5: "
            "3.1250 (0.9)  time: 0.4100  data: 0.0120  max mem: 6543"
        )
        if step == WINDOWS // 2 - 1:
            lines += [
                f"Epoch: [{epoch}] Total time: 0:05:20",
                "Test:   [  0/196]  eta: 0:01:00  loss: 6.0 (6.0)  acc1: 9.3 (9.3)  time: 0.31  "
                "data: 0.2  max mem: 6543",
                "Test:  Total time: 0:00:30",
                f"Test:  Acc@1 {10 + epoch}.500 Acc@5 30.0",
            ]
    return write([*lines, "Training time 0:11:40"])


def timm(gpus: int) -> str:
    lines = [
        f"Training in distributed mode with multiple processes, 1 device per process. Process "
        f"{rank}, total {gpus}, device cuda:{rank}." for rank in range(gpus)
    ] if gpus > 1 else ["Training with a single process on 1 device (cuda:0)."]  # fmt: skip
    lines.append("Scheduled epochs: 1. LR stepped per epoch.")
    for number, per_s in enumerate(rates(gpus)):
        lines.append(
            f"Train: 0 [{number * 50:4d}/1251 ({number * 4:3d}%)]  Loss: {6.9 - number / 10:#.3g} "
            f"(6.91)  Time: 0.345s, {per_s:>7.2f}/s  (0.401s,  {per_s * 0.9:>7.2f}/s)  "
            "LR: 1.000e-05  Data: 0.010 (0.050)"
        )
    return write([
        *lines,
        "Test: [   0/78]  Time: 2.5 (2.5)  Loss:   5.900 ( 5.900)  Acc@1:   9.10 (  9.10)",
        "Test: [  78/78]  Time: 0.1 (0.2)  Loss:   5.700 ( 5.800)  Acc@1:  12.00 ( 11.50)",
        "*** Best metric: 11.5 (epoch 0)",
    ])  # fmt: skip


def nanogpt(gpus: int) -> str:
    lines = ["Overriding: max_iters = 90", f"tokens per iteration will be: {gpus * 1500:,}",
             "number of parameters: 123.59M", "step 0: train loss 10.9, val loss 10.8"]  # fmt: skip
    for number, per_s in enumerate(rates(gpus)):
        ms = gpus * 1500 / per_s * 1000
        lines.append(
            f"iter {number * 10}: loss {10.5 - number / 10:.4f}, time {ms:.4f}ms, mfu -100.00%"
        )
    return write([*lines, "step 90: train loss 9.8, val loss 9.9", "saving checkpoint to out"])


def torchtitan(gpus: int) -> str:
    colours = [f"\x1b[3{n}m" for n in range(1, 7)] + ["\x1b[39m"]
    head = "[rank0]:\x1b[0m[titan] 2026-01-01 00:00:00,000 - root - INFO - "
    lines = [
        f"[rank0]:[titan] 2026-01-01 00:00:00,000 - root - INFO - Building 1-D device mesh with "
        f"['dp_shard'], [{gpus}]",
        f"{head}Training starts at step 1, with local batch size 8, global batch size {8 * gpus}, "
        "sequence length 8192, total steps 100 (warmup 2)",
    ]
    for number, per_s in enumerate(rates(gpus), start=1):
        for rank in range(2 if gpus > 1 else 1):
            tps = per_s / gpus - rank
            lines.append(
                f"{head.replace('rank0', f'rank{rank}')}{colours[0]}step: {number * 10:2}  "
                f"{colours[1]}loss: {8 - number / 10:7.4f}  {colours[2]}grad_norm:  1.2000  "
                f"{colours[3]}memory:  2.49GiB(3.14%)  {colours[4]}tps: {round(tps):,}  "
                f"{colours[5]}tflops: 102.99  mfu: 10.41%{colours[6]}"
            )
    lines.append(f"{head}validate step: 100  loss:  7.1  memory:  2.0GiB(2.5%)  tps: 9,000")
    return write([*lines, f"{head}Training completed"])


def megatron(gpus: int) -> str:
    lines = [
        f"using world size: {gpus}, data-parallel size: {gpus}, tensor-model-parallel size: 1",
        f"  global_batch_size ............................... {gpus * 4}",
        "[before the start of training step] datetime: 2026-01-05 11:00:00",
    ]
    for number, per_s in enumerate(rates(gpus), start=1):
        lines += [
            f" [2026-01-05 11:00:{number:02}] iteration {number * 10:8d}/     100 | consumed "
            f"samples: {number * 40 * gpus:12d} | elapsed time per iteration (ms): "
            f"{gpus * 4000 / per_s:.6f} | throughput per GPU (TFLOP/s/GPU): 123.4 | learning rate: "
            f"1.0E-04 | global batch size: {gpus * 4:5d} | lm loss: {10 - number / 10:.6E} | "
            "loss scale: 1.0 | grad norm: 1.234 | number of skipped iterations:   0 |",
            "(min, max) time across ranks (ms):", "    forward-backward ....: (2100.1, 2101.0)",
        ]  # fmt: skip
    return write([*lines, "[after training is done] datetime: 2026-01-05 11:05:00",
                  " validation loss at iteration 100 | lm loss value: 9.100000E+00 |"])  # fmt: skip


def huggingface(gpus: int) -> str:
    return write([
        "***** Running training *****", "  Num examples = 1,000",
        f"  Total train batch size (w. parallel, distributed & accumulation) = {8 * gpus}",
        "  0%|          | 0/100 [00:00<?, ?it/s]\r 50%|#####     | 50/100 [00:50<00:50,  1.00it/s]",
        "{'loss': 2.5, 'grad_norm': 1.1, 'learning_rate': 5e-05, 'epoch': 0.5}",
        "{'eval_loss': 2.2, 'eval_runtime': 3.2, 'eval_samples_per_second': 99.0, 'epoch': 1.0}",
        f"\r100%|##########| 100/100 [01:40<00:00,  1.00it/s]{{'train_runtime': 273.0, "
        f"'train_samples_per_second': {rate(gpus)}, 'train_steps_per_second': 0.007, "
        "'train_loss': 2.4, 'epoch': 1.0}",
        "***** train metrics *****", "  train_runtime            = 0:04:33.00",
        f"  train_samples_per_second = {rate(gpus):10.3f}",
    ])  # fmt: skip


def lightning(gpus: int) -> str:
    lines = [f"Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/{gpus}",
             f"All distributed processes registered. Starting with {gpus} processes"]  # fmt: skip
    for number, per_s in enumerate(rates(gpus)):
        per_step = f"{per_s / gpus / 100:.4f}it/s"
        lines.append(
            f"\rEpoch {number}:   0%|          | 0/40 [00:00<?, ?it/s]"
            f"\rEpoch {number}:  50%|█████     | 20/40 [00:10<00:10,  9.99it/s, v_num=3]"
            f"\rEpoch {number}: 100%|██████████| 40/40 [00:20<00:00, {per_step}, v_num=3]"
            "\rValidation DataLoader 0: 100%|██████████| 8/8 [00:01<00:00,  7.00it/s]"
            f"\rEpoch {number}: 100%|██████████| 40/40 [00:40<00:00,  1.00it/s, v_num=3, "
            f"train_loss={2 - number / 10:.3f}, val_loss=2.1]"
        )
    return write([*lines, "`Trainer.fit` stopped: `max_epochs=10` reached."])


def deepspeed(gpus: int) -> str:
    lines = [f"[2026-01-01 10:00:00,000] [INFO] [launch.py:163:main] dist_world_size={gpus}"]
    for number, per_s in enumerate(rates(gpus), start=1):
        lines += [
            f"[2026-01-01 10:00:{number:02},001] [INFO] [logging.py:96:log_dist] [Rank 0] step="
            f"{number * 10}, skipped=0, lr=[0.001], mom=[[0.8, 0.999]]",
            f"[2026-01-01 10:00:{number:02},002] [INFO] [timer.py:260:stop] epoch=0/micro_step="
            f"{number * 10}/global_step={number * 10}, RunningAvgSamplesPerSec={per_s * 0.97}, "
            f"CurrSamplesPerSec={per_s}, MemAllocated=0.06GB, MaxMemAllocated=0.06GB",
        ]
    return write(lines)


def nersc(gpus: int) -> str:
    lines = []
    for number, per_s in enumerate(rates(gpus), start=1):
        lines += [
            f"2026-01-01 10:00:00,000 - root - INFO - Time taken for epoch {number} is "
            f"{8000 / per_s} sec, avg {per_s} samples/sec",
            f"2026-01-01 10:00:00,001 - root - INFO -   Avg train loss={1 / number:f}",
            f"2026-01-01 10:00:02,001 - root - INFO -   Avg val loss={2 / number:f}",
        ]
    return write([*lines, "2026-01-01 10:09:00,000 - root - INFO - DONE ---- rank 0"])


# Format -> (how it writes a log, what the user must say besides, the last training loss).
STUDY = {
    "torchvision": (torchvision, {}, "6.1000"),
    "timm": (timm, {}, "6.00"),
    "nanogpt": (nanogpt, {}, "9.6000"),
    "torchtitan": (torchtitan, {}, "7.0000"),
    "megatron": (megatron, {}, "9.000000E+00"),
    "huggingface": (huggingface, {}, None),
    "lightning": (lightning, {"samples": ["100/gpu"]}, "1.100"),
    "deepspeed": (deepspeed, {}, None),
    "nersc": (nersc, {}, "0.100000"),
}
UNITS = {"torchvision": "img/s", "timm": "img/s", "nanogpt": "tokens/s", "torchtitan": "tokens/s"}
