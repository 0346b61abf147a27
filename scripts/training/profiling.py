"""What the steps are made of: `--profile N` by torch.profiler, `--nvtx` for Nsight Systems."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, schedule

from training.stopwatch import PARTS

SKIPPED = 5  # steps that load libraries and choose algorithms
RECORDED = range(10, 21)  # steps of a process, from 1, that `nsys profile` records


class StepProfiler:
    """Profiles `steps` steps of the ranks asked for, once.

    Leaves trace_rank<r>.json in `folder`, for chrome://tracing or https://ui.perfetto.dev, and
    prints the operators that took longest. Profiled steps are slow, and writing the trace takes
    seconds: leave the throughput of that epoch out of account.
    """

    def __init__(self, folder: Path, steps: int, ranks: list[int], device: torch.device):
        self.folder, self.device, self.profiler = folder, device, None
        self.steps, self.communication = steps, {}
        self.is_written = False
        if steps and dist.get_rank() in ranks:
            activities = [ProfilerActivity.CPU]
            if device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self.profiler = profile(
                activities=activities,
                schedule=schedule(skip_first=SKIPPED, wait=0, warmup=1, active=steps, repeat=1),
                on_trace_ready=self._write,
                record_shapes=False,
            )
            self.profiler.start()

    def end_step(self) -> None:
        if self.profiler:
            self.profiler.step()

    def stop(self) -> None:
        """End the profile; one that has fewer steps than asked for is written as it is."""
        if self.profiler:
            self.profiler.stop()  # writes what is recorded, if anything is
            self.profiler = None
            if not self.is_written:
                print(
                    f"Profile of rank {dist.get_rank()}: nothing to show, the training has no more "
                    f"than the {SKIPPED + 1} steps that are left out; train more of them",
                    flush=True,
                )

    def _write(self, profiler: profile) -> None:
        rank = dist.get_rank()
        trace = self.folder / f"trace_rank{rank}.json"
        temporary = trace.with_name(f"{trace.stem}.tmp.json")  # the name decides the format
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(trace)
        self.is_written = True
        self.communication = measure_communication(profiler.events(), self.steps)
        by = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=40)
        print(f"Profile of rank {rank}, its trace is trace_rank{rank}.json:\n{table}", flush=True)


class NvtxRanges:
    """Names each step and its parts for Nsight Systems, and bounds what that records.

    The parts are those of the Stopwatch, in their order. nsys with --capture-range=cudaProfilerApi
    records the steps of RECORDED; without nsys all of this costs microseconds. Off on a CPU.
    """

    def __init__(self, asked: bool, device: torch.device):
        self.is_on = asked and device.type == "cuda"
        self.step, self.is_open, self.is_recording = 0, False, False
        if asked and not self.is_on and dist.get_rank() == 0:
            print("--nvtx has no effect: it needs CUDA", flush=True)

    def begin_step(self) -> None:
        if not self.is_on:
            return
        self.step += 1
        if self.step == RECORDED.start:
            torch.cuda.profiler.start()
            self.is_recording = True
        torch.cuda.nvtx.range_push(f"step {self.step}")

    def begin(self, part: str | None) -> None:
        """End the part in hand, and begin `part`, if it is one."""
        if not self.is_on:
            return
        if self.is_open:
            torch.cuda.nvtx.range_pop()
        self.is_open = part is not None
        if part:
            torch.cuda.nvtx.range_push(part)

    def begin_after(self, part: str, is_last_pass: bool) -> None:
        """Begin what comes after `part` in a step; the optimizer only after the last pass."""
        following = dict(zip(PARTS, [*PARTS[1:], None], strict=True))[part]
        self.begin(following if part != "compute" or is_last_pass else None)

    def end_step(self) -> bool:
        """Whether the recording ends here."""
        if not self.is_on:
            return False
        self.begin(None)
        torch.cuda.nvtx.range_pop()
        return self.step + 1 == RECORDED.stop and self.stop()

    def stop(self) -> bool:
        """End the recording, when there is one: all that was begun belongs to it."""
        if not self.is_recording:
            return False
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        self.is_recording = False
        return True


def measure_communication(events, steps: int) -> dict[str, float]:
    """Seconds per step in which any collective runs, and those in which nothing is computed.

    One measure for every strategy: DDP's all-reduce and FSDP's gathers alike, waiting for slower
    ranks included. events: torch.profiler's. Collectives are NCCL's kernels, or what gloo's threads
    do; computing is every other kernel on the GPU, or the operators of the program's threads.
    """
    on_gpu = any("nccl" in each.name and is_kernel(each) for each in events)
    sent, computed = [], []
    for each in events:
        interval = (each.time_range.start, each.time_range.end)
        if each.name.startswith("gloo:") or (is_kernel(each) and each.name.startswith("nccl")):
            sent.append(interval)
        elif is_kernel(each) if on_gpu else each.name.startswith("aten::"):
            computed.append(interval)
    total = measure_union(sent)
    exposed = measure_union(sent + computed) - measure_union(computed)
    exposed = min(max(exposed, 0.0), total)  # a difference of two sums is off by their rounding
    return {
        "profiled_comm_per_step_s": total / steps / 1e6,
        "profiled_exposed_per_step_s": exposed / steps / 1e6,
    }


def is_kernel(event) -> bool:
    """Whether it ran on the GPU.

    A range that a program names (ProfilerStep, nccl:all_reduce) is drawn there, too, over all
    kernels within it and the gaps between them: that is no kernel.
    """
    on_gpu = event.device_type != torch.autograd.DeviceType.CPU
    return on_gpu and not event.is_user_annotation


def measure_union(intervals: list[tuple[float, float]]) -> float:
    """The time in which at least one of the intervals (begin, end) runs."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
