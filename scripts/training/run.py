"""One training run: what happens around its steps, so that a trainer shows the steps alone.

Times, records, checkpoints, signals, the profiler, the tracker and the progress bar meet here.
"""

import os
import signal
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.distributed as dist

from common.files import write_whole
from training import TrainingError
from training.breakdown import measure_exposed_comm
from training.certificate import Certificate
from training.checkpoint import (
    Checkpoints,
    ModelState,
    capture_rng,
    check_incomplete,
    check_progress,
    gather_on_main,
    may_go_on,
    restore_rng,
)
from training.epoch import EpochResult, show_progress
from training.launch import bound_the_end, follow
from training.profiling import RECORDED, NvtxRanges, StepProfiler
from training.record import WRITE_ELSEWHERE, RunRecord
from training.signals import Stopped, StopRequest
from training.stopwatch import Stopwatch
from training.tracking import start_tracking


class TrainingRun:
    """Made once the model stands; continues from the job's newest checkpoint when there is one.

    for epoch in run.epochs():
        for micro_batches in run.steps(loader):
            ...
            run.end_step()
        run.end_epoch(result, samples)
    run.finish()

    settings: the workload's part of run.json; trainer: the script's path; learner: the model, the
    optimizer and, where there are any, the scheduler and the scaler, which a checkpoint keeps.
    training/README.md is the page for those who bring a trainer of their own.
    """

    def __init__(
        self, args: Namespace, settings: dict, device: torch.device, trainer: Path, *learner
    ):
        self.args, self.settings, self.device = args, settings, device
        self.grad_accum_steps = settings["grad_accum_steps"]
        self.is_main = dist.get_rank() == 0
        self.state = ModelState(*learner)
        self.record = RunRecord(args.workdir, settings, device, trainer)
        self.checkpoints = Checkpoints(args.checkpoint_dir, self.record.run)
        self.stop = StopRequest()
        readers = settings.get("tensor_parallel") or 1
        self.certificate = None if args.no_certificate else Certificate(readers)
        self.epoch, self.step = 0, 0  # in hand, and done in this epoch
        self.total_steps = 0  # optimizer steps since the training began
        self.lr = settings["lr"]  # of the last step that was begun
        self.probe: dict[str, float] = {}
        self.last_batch = None
        self.sums: torch.Tensor | None = None
        self._saved_epoch: dict | None = None  # of this rank, when a checkpoint cut an epoch
        self._restore()
        follow(lambda: {"epoch": self.epoch + 1, "step": self.step})
        self.profiler = StepProfiler(args.workdir, args.profile, args.profile_ranks, device)
        self.ranges, self.passes_left = NvtxRanges(args.nvtx, device), 0
        self.record.start()
        began = time.perf_counter()
        self.tracker = start_tracking(args, self.record.run)
        self.record.epoch_started += time.perf_counter() - began  # no part of the first epoch

    # ---- Going through the epochs and steps ----

    def epochs(self) -> Iterator[int]:
        """The epochs to train, from 0, or from where the checkpoint ends."""
        for epoch in range(self.epoch, self.settings["epochs"]):
            self.epoch = epoch
            yield epoch

    def steps(self, loader, limit: int | None = None) -> Iterator[Iterator]:
        """For each optimizer step of the epoch yield its micro-batches, timing all of it.

        limit: end the epoch after so many steps. The loader's batch_sampler is told to leave out
        what a checkpoint has behind it. Raises TrainingError when it is none that can.
        """
        if not hasattr(loader.batch_sampler, "skip"):
            raise TrainingError(
                "the loader cannot leave out what a checkpoint has behind it: make it with "
                "DataLoader(data, batch_sampler=ResumableBatches(sampler, batch_size))"
            )
        accum = self.grad_accum_steps
        total = min(len(loader) // accum, limit or len(loader))
        self.stopwatch = Stopwatch(self.device)
        self._resume_epoch(loader, accum)
        self.batches = loader.batch_sampler
        remaining = range(self.step, total)
        what = f"Epoch {self.epoch + 1}/{self.settings['epochs']}"
        with self.stopwatch:
            batches = iter(loader)
            for _ in show_progress(remaining, len(remaining), what, is_main=self.is_main):
                self.lr = self.state.optimizer.param_groups[0]["lr"]
                self.ranges.begin_step()
                yield self._micro_batches(batches, accum)

    def _micro_batches(self, batches: Iterator, accum: int) -> Iterator:
        for self.passes_left in reversed(range(accum)):
            self.ranges.begin("data_wait")
            self.last_batch = self.stopwatch.wait_for(batches)
            self.ranges.begin("copy")
            yield self.last_batch

    def new_sums(self, size: int) -> torch.Tensor:
        """Zeros to add an epoch's figures up in, or what a checkpoint had added up already."""
        self.sums = torch.zeros(size, dtype=torch.float64, device=self.device)
        if self._saved_epoch:
            self.sums += self._saved_epoch["sums"].to(self.device)
        return self.sums

    def mark(self, part: str) -> None:
        """End a part of the step: "copy", "compute" or "optimizer"."""
        self.stopwatch.mark(part)
        self.ranges.begin_after(part, is_last_pass=self.passes_left == 0)

    def end_step(self) -> None:
        """Count the step; save when it is time to, or when Slurm has said that it is.

        Raises Stopped after a signal, on all ranks at the same step.
        """
        self.stopwatch.end_step()
        self.step += 1
        self.total_steps += 1
        self.profiler.end_step()
        if self.ranges.end_step():
            self.record.note(nsys_steps=len(RECORDED))
        self.tracker.add_step(self.total_steps, self.sums)
        every = self.args.checkpoint_every
        if number := self.stop.agree():
            self._stop(number)
        if every and self.total_steps % every == 0:
            self._save()

    def measure_exposed_comm(
        self,
        run_pass: Callable,
        no_sync: Callable[[], AbstractContextManager],
    ) -> None:
        """After the first epoch: measure what the all-reduce adds to a step, run_pass(batch)."""
        if self.probe or self.last_batch is None or self.args.no_probe:
            return
        if dist.get_world_size() == 1:  # nobody to talk to
            return
        self.probe = measure_exposed_comm(
            self.state.model, lambda: run_pass(self.last_batch), no_sync, self.device
        )

    def end_epoch(self, result: EpochResult, samples: int) -> None:
        """Record the epoch; `samples` are this rank's, `result` is the whole job's."""
        if self.certificate:
            self._certify()
        self.record.rank_facts |= self.profiler.communication
        self.record.add_epoch(result, self.stopwatch, samples, self.probe)
        self.probe.pop("probe_s", None)  # spent once
        self.tracker.add_epoch(result, self.total_steps)
        self.epoch, self.step, self._saved_epoch = self.epoch + 1, 0, None
        self.sums = None
        if self.epoch < self.settings["epochs"] and (number := self.stop.agree(at_once=True)):
            self._stop(number)

    def _certify(self) -> None:
        """Compare the replicas; what is wrong is in the log at once, and in run.json."""
        drawn = self.batches.drawn(self.step * self.grad_accum_steps)
        passes = getattr(self.batches.sampler, "passes", 1)
        for fault in self.certificate.check(self.state.model, drawn, passes):
            if self.is_main:
                print(f"warning: epoch {self.epoch + 1}: {fault}", flush=True)
        self.record.note(replicas=self.certificate.describe())

    def finish(self) -> None:
        """End the run: the last checkpoint, the totals, RUN_COMPLETE.txt."""
        self.profiler.stop()
        self.ranges.stop()
        if self.args.checkpoint_every:
            self._save()
        self.record.finish()
        bound_the_end(self.args.workdir / "RUN_COMPLETE.txt")
        self.tracker.end()

    # ---- Saving and going on ----

    def _save(self) -> None:
        """Write a checkpoint; every rank gives its part, rank 0 writes."""
        begun = self.step > 0
        mine = {
            "rng": capture_rng(self.device),
            "probe": self.probe,
            "stopwatch": self.stopwatch.state_dict() if begun else None,
            "sums": self.sums.cpu() if begun else None,
        }
        state, ranks = self.state.capture(), gather_on_main(mine)
        if self.is_main:
            content = {
                **state,
                "epoch": self.epoch,
                "step": self.step,
                "total_steps": self.total_steps,
                "lr": self.lr,
                "record": self.record.state_dict(),
                "ranks": ranks,
            }
            self.checkpoints.save(self.total_steps, content)

    def _restore(self) -> None:
        saved = self.checkpoints.load_newest()
        if self.is_main:
            check_progress(self.checkpoints.folder, saved["total_steps"] if saved else 0)
        if not saved:
            return
        check_incomplete(saved, self.checkpoints.folder, self.settings["epochs"])
        self.state.restore(saved)
        self.record.load_state_dict(saved["record"])
        self.record.run["resumed_from"] = {key: saved[key] for key in ("epoch", "step")}
        self.epoch, self.step = saved["epoch"], saved["step"]
        self.total_steps, self.lr = saved["total_steps"], saved["lr"]
        mine = saved["ranks"][dist.get_rank()]
        self.probe = mine["probe"]
        restore_rng(mine["rng"], self.device)
        self._saved_epoch = mine if self.step else None
        if self.is_main:
            print(f"Going on after step {self.total_steps}, in epoch {self.epoch + 1}", flush=True)

    def _resume_epoch(self, loader, accum: int) -> None:
        if self._saved_epoch:
            self.stopwatch.load_state_dict(self._saved_epoch["stopwatch"])
        else:
            self.step = 0
        loader.batch_sampler.skip = self.step * accum

    def _stop(self, number: int) -> None:
        self._save()
        if number == signal.SIGUSR1 and self.is_main:
            restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
            if may_go_on(restarts, self.args.max_restarts):
                path = self.args.workdir / "REQUEUE"
                write_whole(path, f"step {self.total_steps}\n", WRITE_ELSEWHERE)
        self.profiler.stop()
        self.ranges.stop()
        self.tracker.end()
        dist.barrier()  # nobody leaves before the checkpoint is whole
        raise Stopped(number)
