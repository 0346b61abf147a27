"""Run by two ranks in test_resume.py: train with train.py's main(), cut it everywhere, go on.

resume_probe.py DATA_DIR OUT_DIR STEP…: trains undisturbed into OUT_DIR/uncut; then, for each
STEP, is cut right after it into OUT_DIR/STEP/1 and goes on into OUT_DIR/STEP/2. The process
group is made once, since that is not what is tested.
"""

import sys
from pathlib import Path

import torch.distributed as dist

import train
from training.run import TrainingRun

OPTIONS = [
    "--model=shufflenet_v2_x0_5", "--image-size=16", "--batch-size=8", "--num-workers=1",
    "--lr=0.01", "--epochs=2", "--limit-batches=4", "--warmup-steps=3", "--grad-accum-steps=2",
]  # fmt: skip


class Cut(Exception):
    pass


def call_main(data_dir: str, workdir: Path, checkpoints: Path, every: int, *options: str) -> None:
    sys.argv[1:] = [
        *OPTIONS, f"--data-dir={data_dir}", f"--workdir={workdir}",
        f"--checkpoint-dir={checkpoints}", f"--checkpoint-every={every}", *options,
    ]  # fmt: skip
    train.main(train.parse_args())
    dist.barrier()


def cut_after(step: int):
    """Make end_step raise once `step` steps are done and saved."""
    end_step = TrainingRun.end_step

    def end_step_and_cut(run: TrainingRun) -> None:
        end_step(run)
        if run.total_steps == step:
            raise Cut

    return end_step, end_step_and_cut


def main() -> None:
    data_dir, out_dir, *steps = sys.argv[1:]
    device = train.init_distributed(timeout_s=120)
    train.init_distributed = lambda timeout_s: device
    destroy, dist.destroy_process_group = dist.destroy_process_group, lambda: None
    call_main(data_dir, Path(out_dir, "uncut"), Path(out_dir, "uncut/checkpoints"), 3)
    for step in map(int, steps):
        folder = Path(out_dir, str(step))
        end_step, TrainingRun.end_step = cut_after(step)
        try:
            call_main(data_dir, folder / "1", folder / "checkpoints", step, "--no-probe")
        except Cut:
            dist.barrier()
        TrainingRun.end_step = end_step
        call_main(data_dir, folder / "2", folder / "checkpoints", 8, "--no-probe")
    destroy()


if __name__ == "__main__":
    main()
