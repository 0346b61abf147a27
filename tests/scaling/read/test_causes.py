"""scaling.read.causes: why a job failed, from the lines of its log."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from run_folders import epoch_line, out_text
from scaling.read.causes import DIED, Cause, CauseSearch, Findings, pick_words
from scaling.read.symptoms import ROOT, State, load_symptoms, write_symptoms
from scaling.read.text import clean_line

RULES, _ = load_symptoms()

PREEMPTED = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T10:00:00 DUE TO {} ***"
STEP = "slurmstepd: error: *** STEP 12.0 ON node2 CANCELLED AT 2026-11-21T10:00:00{} ***"
TRACEBACK = """\
Traceback (most recent call last):
  File "/repo/scripts/train.py", line 12, in <module>
    raise ValueError("CUDA out of memory")  # source text, not a message
    ^^^^^^^^^^^^^^^^^^^^^
{}
"""
PEER = "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242"
OWN = "[rank 1 on node2] error: cannot decode n01443537_0.JPEG"
OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some tasks were OOM Killed."


def search_lines(lines: Iterable[str], job_id: str | None = None) -> Findings:
    search, lines = CauseSearch(job_id), list(lines)
    words = pick_words(lines)
    for number, line in enumerate(lines, start=1):
        if "Epoch [" in line and " LR: " in line:
            search.pass_epoch()
        elif "NCCL INFO " not in line:
            search.add(number, clean_line(line), words)
    return search.finish()


def find_cause(lines: Iterable[str], job_id: str | None = None) -> Cause | None:
    return search_lines(lines, job_id).cause


def block(rank=2, host="n1", status=-9, time="2026-11-21_10:00:00", error="", root=True) -> str:
    """What torchrun prints of a rank that failed."""
    shown = error and f'Traceback (most recent call last):\n    File "t.py", line 1\n  {error}'
    lines = ["Root Cause (first observed failure):"] if root else ["Failures:"]
    lines += ["[0]:", f"  time      : {time}", f"  host      : {host}"]
    lines += [f"  rank      : {rank} (local_rank: 0)", f"  exitcode  : {status} (pid: 4711)"]
    lines += ["  error_file: <N/A>", f"  traceback : {shown or 'To enable traceback see: x'}"]
    return "\n".join([*lines, "=" * 60, ""])


# ---- The table of symptoms ------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_each_row_knows_its_symptom_and_says_what_helps(rule):
    noise = "node1:12:12 [0] NCCL INFO Connection closed by peer, error: not one"
    for prefix in ("", "0: ", "[rank1]: "):
        cause = find_cause([noise, prefix + rule.prints, noise])
        assert (cause.rule, cause.state) == (rule.id, rule.state)
        assert cause.hint and "{" not in cause.hint + cause.text and "\n" not in cause.text
    assert re.fullmatch(r"[a-z0-9-]+", rule.id)
    assert not re.search(r"[.:]$", rule.fix) and not rule.cause.endswith(".")


def test_each_row_has_a_place_of_its_own():
    assert len({rule.id for rule in RULES}) == len(RULES)


# How other versions and programs print the same: (row, line).
VARIANTS = [
    ("time-limit", "slurmstepd: error: *** STEP 9.0 ON n1 CANCELLED AT 2026-01-06T04:52:18 DUE TO "
     "TIME LIMIT ***"),
    ("time-limit", "srun: error: *** STEP 9.0 CANCELLED AT 2026-01-06T04:52:18 DUE TO TIME LIMIT "
     "***"),
    ("time-limit", "slurmd[n1]: *** JOB 9 CANCELLED AT 2013-01-06T04:52:18 DUE TO TIME LIMIT ***"),
    ("time-limit", " 50%|##  | 5/9 [00:1]slurmstepd-sp-16: error: *** JOB 9 ON n1 CANCELLED AT "
     "2026-01-06T04:52:18 DUE TO TIME LIMIT ***"),
    ("preempted", PREEMPTED.format("JOB REQUEUE")),
    ("cancelled", "slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2026-01-06T04:52:18 ***"),
    ("cancelled", "slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2026-01-06T04:52:18 DUE to "
     "SIGNAL Killed ***"),
    ("step-ended", STEP.format("")),
    ("step-ended", STEP.format(" DUE to SIGNAL Terminated")),
    ("step-ended", "[2026-04-29T23:36:37.809] error: *** STEP 12.0 ON n1 CANCELLED AT 2026-04-29T2"
     "3:36:37 DUE TO TASK FAILURE ***"),
    ("step-ended", "slurmstepd: error: *** STEP 12.0 ON n1 FAILED (non-zero exit code or other "
     "failure mode) ***"),
    ("out-of-memory", "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.batch."),
    ("out-of-memory", "srun: error: node1: task 0: Out Of Memory"),
    ("out-of-memory", "slurmstepd: error: Job 12 exceeded memory limit (3940 > 2068), being "
     "killed"),
    ("out-of-memory", "[ 9.1] Memory cgroup out of memory: Killed process 4711 (python)"),
    ("host-memory", "MemoryError"),
    ("host-memory", "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 4.00 GiB for an"),
    ("host-memory", "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocat"
     "or: can't allocate memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate"),
    ("host-memory", "OSError: [Errno 12] Cannot allocate memory"),
    ("locked-memory", "[0] misc/ibvwrap.cc:278 NCCL WARN Call to ibv_reg_mr_iova2 failed with error"
     " Cannot allocate memory"),
    ("locked-memory", "UCX  ERROR mlx5_0: ibv_create_cq() failed: Cannot allocate memory. Please "
     "set"
     " max locked memory (ulimit -l) to 'unlimited' (current: 64 kbytes)"),
    ("gpu-memory", "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB."),
    ("gpu-memory", "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB"),
    ("gpu-memory", "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling "
     "`cublasCreate"),
    ("gpu-memory", "n1:7:9 [0] enqueue.cc:99 NCCL WARN Cuda failure 2 'out of memory'"),
    ("gpu-failed", "[12.3] NVRM: Xid (PCI:0000:44:00): 94, pid=9, Contained: SM (0x1)"),
    ("gpu-failed", "slurmstepd: error: NVML: Failed to get usage(15): GPU is lost"),
    ("gpu-failed", "Unable to determine the device handle for GPU0000:03:00.0: Unknown Error"),
    ("xid-of-program", "NVRM: Xid (PCI:0000:10:00): 13, pid=7, Graphics SM Warp Exception"),
    ("driver-too-old", "RuntimeError: The NVIDIA driver on your system is too old (found version "
     "1"),
    ("driver-too-old", "[0] NCCL WARN Cuda failure 'CUDA driver version is insufficient for CUDA "
     "ru"),
    ("no-kernel-image", "RuntimeError: HIP error: invalid device function"),
    ("no-kernel-image", "UserWarning: Tesla K40c with CUDA capability sm_35 is not compatible with "
     "the current PyTorch installation."),
    ("two-ranks-one-gpu", "Duplicate GPU detected : rank 3 and rank 0 both on CUDA device f000"),
    ("too-few-gpus", "RuntimeError: No CUDA GPUs are available"),
    ("shared-memory", "ERROR: Unexpected bus error encountered in worker. This might be caused by "
     "insufficient shared memory (shm)."),
    ("shared-memory", "[0] misc/shmutils.cc:132 NCCL WARN Error while creating shared memory "
     "segment"
     " /dev/shm/nccl-WU88OE (size 9637888), error: No space left on device (28)"),
    ("shared-memory", "[0] misc/shmutils.cc:71 NCCL WARN Error: failed to extend /dev/shm/nccl-f "
     "to "
     "5967876 bytes"),
    ("shared-memory", "include/shm.h:28 NCCL WARN Call to posix_fallocate failed : No space left "
     "on "
     "device"),
    ("shared-memory", "RuntimeError: unable to write to file </torch_9_1>: No space left on "
     "device"),
    ("shared-memory", "Fatal Python error: Bus error"),
    ("disk-full", "OSError: [Errno 28] No space left on device"),
    ("disk-full", "OSError: [Errno 122] Disk quota exceeded"),
    ("disk-full", "RuntimeError: [enforce fail at inline_container.cc:664] . unexpected pos 704 vs "
     "598"),
    ("thread-limit", "libgomp: Thread creation failed: Resource temporarily unavailable"),
    ("thread-limit", "RuntimeError: can't start new thread"),
    ("thread-limit", "bash: fork: retry: Resource temporarily unavailable"),
    ("open-files", "RuntimeError: received 0 items of ancdata"),
    ("module-not-loaded", "Lmod has detected the following error:  These module(s) or extension(s) "
     'exist but cannot be loaded as requested: "pytorch/2.5"'),
    ("module-not-loaded", "ERROR: Unable to locate a modulefile for 'pytorch/2.5'"),
    ("package-missing", "ImportError: libcudart.so.12: cannot open shared object file: No such "
     "file"),
    ("command-not-found", "environment: line 14: torchrun: command not found"),
    ("command-not-found", "slurmstepd: error: execve(): torchrun: No such file or directory"),
    ("variable-not-set", "slurm_script: line 9: DATA_DIR: unbound variable"),
    ("variable-not-set", "bash: line 1: MASTER_ADDR: unbound variable"),
    ("options", "train.py: error: argument --epochs: invalid int value: 'x'"),
    ("options", "torchrun: error: the following arguments are required: training_script"),
    ("container", "FATAL:   While checking container encryption: could not open image /x.sif"),
    ("pyxis", "slurmstepd: error: pyxis:     [ERROR] Could not process JSON input"),
    ("pyxis-start", "slurmstepd: error: pyxis: container start failed with error code: 1"),
    ("python-start", "Fatal Python error: init_fs_encoding: failed to get the Python codec of "
     "the f"),
    ("loss-not-finite", "WARNING: non-finite loss, ending training  tensor([nan, nan])"),
    ("loss-not-finite", "ValueError: loss is NaN at step 12"),
    ("loss-not-finite", "FloatingPointError: Minimum loss scale reached (0.0001). Your loss is "
     "prob"),
    ("loss-not-finite", "RuntimeError: Function 'MulBackward0' returned nan values in its 0th "
     "output"),
    ("late-node", "torch.distributed.DistStoreError: Timed out after 6 seconds waiting for "
     "workers. "
     "1/4 workers joined."),
    ("gloo-mesh", "[rank1]:[E528 08:52:46 ProcessGroupGloo.cpp:145] Gloo connectFullMesh failed "
     "with "
     "[/pytorch/gloo/transport/tcp/pair.cc:144] no error"),
    ("collective-timeout", "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:81] Timed out "
     "waiting 30000ms for recv operation to complete"),
    ("collective-timeout", "[rank0]:[E321 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught "
     "collective operation timeout: WorkNCCL(SeqNum=80, OpType=ALLREDUCE) ran for 600060 millisec"),
    ("no-interface", "node1:7:9 [0] NCCL WARN Bootstrap : no socket interface found"),
    ("nccl-error", "torch.DistBackendError: NCCL error in: a.cpp, ncclSystemError: System call"),
    ("nccl-cuda", "ncclUnhandledCudaError: Call to CUDA function failed."),
    ("port-taken", "torch.distributed.DistNetworkError: The server socket has failed to listen on "
     "any local network address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, mess"),
    ("port-taken", "OSError: [Errno 98] Address already in use"),
    ("no-meeting", "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError"),
    ("srun-start", "srun: error: Task launch for StepId=9.4 failed on node n2: Unable to layout "
     "task"),
    ("srun-start", "srun: fatal: No command given to execute."),
    ("srun-start", "srun: error: Unable to create step for job 9: Invalid generic resource "
     "(gres) s"),
    ("srun-memory", "srun: fatal: SLURM_TRES_PER_TASK is mutually exclusive with --ntasks-per-gpu"),
    ("peer-gone", "srun: error: Unable to create step for job 9: Job/step already completing or "
     "completed"),
    ("peer-gone", "subprocess.CalledProcessError: Command '['python']' returned non-zero exit "
     "status"
     " 1."),
    ("child-killed", "subprocess.CalledProcessError: Command '['python']' died with "
     "<Signals.SIGKILL"
     ": 9>."),
    ("loader-worker-crashed", "RuntimeError: DataLoader worker (pid 7) is killed by signal: "
     "Aborted."),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "line"), VARIANTS, ids=[line[:60] for _, line in VARIANTS])
def test_the_same_as_other_versions_print_it(rule, line):
    assert find_cause([line]).rule == rule
    if ": error: " not in line and "srun" not in line and not line.startswith("[2026"):
        assert find_cause(TRACEBACK.format(line).splitlines()).rule in (rule, "")


CAUSES = [(rule.prints, rule.id) for rule in RULES] + [(line, rule) for rule, line in VARIANTS]

NO_CAUSE = [
    "wandb: WARNING error rate is fine", "Job 12: complete (exit status 0)",
    "loss 0.5, is nan safe",
    "fatal: not a git repository", "| Volatile Uncorr. ECC | Uncorrectable ECC Errors : 0",
    "environment: line 40: psrecord: command not found", "JOB 1 reached DUE TO TIME LIMIT",
    "*** JOB 12 ON n1 CANCELLED AT 2026-11-21T10:00:00 DUE TO TIME LIMIT ***",  # not of a daemon
    "step 10 loss: 0.5 information", "exitcode is 0", "  time : 3",
]  # fmt: skip


@pytest.mark.parametrize("line", NO_CAUSE)
def test_what_is_no_cause(line):
    assert search_lines([*out_text().splitlines(), line]) == Findings()


# ---- Which of several lines is the cause ----------------------------------------------------


@pytest.mark.parametrize(
    "echo",
    [
        TRACEBACK.format(PEER),
        TRACEBACK.format("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: "),
        TRACEBACK.format("torch.distributed.elastic.api.SignalException: Process 7 got signal: 15"),
        "[rank 0 on node1] error: RuntimeError: Connection closed by peer",
        STEP.format(""),
        STEP.format(" DUE TO TASK FAILURE"),
        "srun: error: node1: task 0: Exited with exit code 1",
        "srun: error: node1: task 0: Terminated",
        TRACEBACK.format("RuntimeError: DataLoader worker (pid 7) exited unexpectedly"),
        block(rank=0, status=1),
        block(rank=0, status=-15),
        block(rank=0, status=-6),
        block(rank=0, status=1, error=PEER),
    ],
)
def test_a_consequence_is_never_preferred_to_a_cause(echo):
    for text in (f"{OWN}\n{echo}", f"{echo}\n{OWN}"):
        assert find_cause(text.splitlines()).text == OWN


def test_the_first_of_equals_stands():
    first, second = (TRACEBACK.format(f"ValueError: {word}") for word in ("first", "second"))
    assert find_cause((first + second).splitlines()).text == "ValueError: first"
    chained = "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert find_cause((first + chained + second).splitlines()).text == "ValueError: first"


def test_a_loader_workers_error_is_the_original_one():
    wrapper = "RuntimeError: Caught OSError in DataLoader worker process 1."
    text = TRACEBACK.format(wrapper) + "Original " + TRACEBACK.format("OSError: truncated image")
    assert find_cause(text.splitlines()).text == "OSError: truncated image"


def test_our_own_line_replaces_the_traceback_that_it_closes():
    text = TRACEBACK.format("KeyError: 'x'") + "[rank 3 on node2] error: KeyError: 'x'\n"
    assert find_cause(text.splitlines()).text == "[rank 3 on node2] error: KeyError: 'x'"
    oom = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    text = TRACEBACK.format(f"torch.{oom}") + f"[rank 3 on node2] error: {oom}\n"
    cause = find_cause(text.splitlines())
    assert (cause.rank, cause.host, cause.state) == (3, "node2", State.OUT_OF_MEMORY)
    assert cause.text.startswith("[rank 3 on node2]") and "--batch-size" in cause.hint


def test_oom_is_the_cause_though_slurm_says_it_last():
    text = f"[rank 0 on node1] error: RuntimeError: what a dying peer made of it\n{OOM}"
    assert find_cause(text.splitlines()).state is State.OUT_OF_MEMORY


def test_the_rank_that_ran_out_of_memory_is_named():
    cause = find_cause([PEER, *block().splitlines(), OOM])
    assert (cause.state, cause.rank, cause.host) == (State.OUT_OF_MEMORY, 2, "n1")
    assert cause.text.startswith("rank 2 on n1: a process was killed")


OUTLIVED = "Traceback (most recent call last):\nImportError: no apex\n"


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (f"{epoch_line(1)}\n{OOM}", "used up its memory"),
        (f"{epoch_line(1)}\nerror: real\n", "error: real"),
        (f"{epoch_line(1)}\n{TRACEBACK.format(PEER)}", "no apex"),  # a line that came late
        ("iter 1: loss 3.1\niter 2: loss 3.0\nNCCL WARN connect refused", "NCCL cannot reach"),
        ("iter 1: loss 3.1\nNCCL WARN connect refused", "no apex"),  # others end their step
        ("  0%|   | 0/9 [00:00]\n 50%|#  | 5/9 [00:50]\n" + PREEMPTED.format("TIME LIMIT"),
         "reached its time limit"),
    ],
)  # fmt: skip
def test_an_error_that_the_training_outlived_gives_way(after, words):
    assert words in find_cause((OUTLIVED + after).splitlines()).text


def test_an_older_attempts_error_is_not_this_ones():
    text = f"{OWN}\n{PREEMPTED.format('JOB REQUEUE')}\nerror: port taken\n"
    assert search_lines(text.splitlines()).own.text == "error: port taken"


def test_of_several_jobs_in_one_log_the_last_counts():
    first = f"{OWN}\n{OOM.replace('12.0', '11.0')}\n"
    assert find_cause([*first.splitlines(), "error: second", OOM.replace("event", "")]).text != OWN
    cancelled = PREEMPTED.format("X").replace(" DUE TO X", "")
    assert find_cause([*first.splitlines(), cancelled]).state is State.CANCELLED


@pytest.mark.parametrize("word", [PREEMPTED.format("TIME LIMIT"), OOM])
def test_what_slurm_says_of_another_job_is_not_believed(word):
    assert find_cause([word, OWN], job_id="12").text != OWN
    assert find_cause([word, OWN], job_id="13").text == OWN
    assert find_cause([word], job_id="13") is None


def test_our_own_summary_in_the_log_is_not_read_as_a_cause():
    text = f"{OWN}\nFirst cause: CUDA out of memory\nJob 12: out of memory: oom_kill\n"
    assert find_cause(text.splitlines()).text == OWN


def test_time_limit_after_an_error_tells_both():
    search = search_lines([OWN, PREEMPTED.format("TIME LIMIT")])
    assert (search.cause.text, search.ending.state) == (OWN, State.TIMED_OUT)
    search = search_lines([PREEMPTED.format("TIME LIMIT"), OWN])  # what the end made of it
    assert search.cause is search.ending


def test_slurms_reason_goes_with_its_word():
    reason = "slurmstepd: error: *** REASON: node n2 was drained ***"
    search = search_lines([PREEMPTED.format("TIME LIMIT"), reason])
    assert search.cause.text == "reached its time limit (node n2 was drained)"


# ---- A process that ended without a word ----------------------------------------------------

SRUN = "srun: error: n2: task 1: "
DEATHS = [
    (block(), "rank 2 on n1 was killed by SIGKILL", "--mem"),
    (block(status=-7), "rank 2 on n1 was killed by SIGBUS", "/dev/shm"),
    (block(status=7), "rank 2 on n1 ended with exit code 7 and printed no error", "exit"),
    (block(status=1), "rank 2 on n1 ended with exit code 1 and printed no error", "exit"),
    (block(status=1, error="ValueError: bad"), "rank 2 on n1: ValueError: bad", "traceback"),
    (block()[:-62], "rank 2 on n1 was killed by SIGKILL", "--mem"),
    (block().replace("  rank ", "  cut "), "a process on n1 was killed by SIGKILL", "--mem"),
    # What torchrun and srun end afterwards is a consequence, on whatever node.
    (f"{PEER}\n{block(0, 'n2', 1, error=PEER)}{block(status=7)}", "rank 2 on n1 ended with ex", ""),
    (block(0, "n2", 1, "2026-11-21_10:00:05") + block(), "rank 2 on n1 was killed by SIG", ""),
    (block(3, "n1", -15, root=False) + block(status=7), "rank 2 on n1 ended with exit code 7", ""),
    (f"{block()}{SRUN}Exited with exit code 1\n{STEP.format('')}\nsrun: error: n3: task 2: Killed",
     "rank 2 on n1 was killed", ""),
    # Another node's ranks may end their epoch after it.
    (f"{block(status=7)}{epoch_line(1)}\n{SRUN}Exited with exit code 1", "rank 2 on n1 end", ""),
    # Without torchrun, or where its block was cut.
    (f"{SRUN}Exited with exit code 7", "task 1 on n2 ended with exit code 7", "exit"),
    (f"{SRUN}Exited with exit code 137", "task 1 on n2 was killed by SIGKILL", "--mem"),
    (f"{SRUN}Killed\n{STEP.format('')}\n{SRUN}Terminated", "task 1 on n2 was killed", "--mem"),
    ("srun: error: n2: tasks 4-7: Segmentation fault (core dumped)", "task 4-7 on n2", "PYTHONFAU"),
    ("slurm_script: line 23: 4711 Killed                  python train.py",
     "python train.py was killed by SIGKILL", "--mem"),
    ("/var/spool/slurmd/job1/slurm_script: line 9:  4711 Bus error               (core dumped) x",
     "was killed by SIGBUS", "/dev/shm"),
    ("environment: line 40: 12 Segmentation fault      (core dumped) python x",
     "python x was killed by SIGSEGV", "PYTHONFAULTHANDLER"),
    ("Bus error (core dumped)", "a process was killed by SIGBUS", "/dev/shm"),
    ("E0325 20:57:27 2606 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: "
     "-9) local_rank: 5 (pid: 2630) of binary: python", "local rank 5 was killed by", "--mem"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "hint"), DEATHS, ids=[d[1] for d in DEATHS])
def test_the_rank_that_died_is_named(text, words, hint):
    for prefix in ("", "0: "):
        cause = find_cause(prefix + line for line in text.splitlines())
        assert words in cause.text and hint in cause.hint
        assert cause.state is State.FAILED and cause.rule == DIED


HANGS = "[rank 0 on n1] error: rank 2 on n2 stopped answering in epoch 2, step 7, at loss (t.py:9)"


def test_a_rank_that_the_others_wait_for_is_the_cause_unless_its_end_is_known():
    waits = (
        "[rank 0 on n1] error: RuntimeError: Timed out waiting 9ms for recv operation to complete"
    )
    cause = find_cause([HANGS, waits, *block(0, "n1", 1).splitlines()])
    assert (cause.text, cause.rank, cause.host) == (HANGS.partition("error: ")[2], 2, "n2")
    assert find_cause([HANGS, waits, *block(2, "n2", 7).splitlines()]).rule == DIED


def test_a_cut_line_gives_no_status():
    cut = block(status=1234).partition("34 (pid")[0]  # 12 of 1234
    assert find_cause(cut.splitlines()) is None


def test_a_rank_that_printed_its_error_is_placed():
    text = TRACEBACK.format("ValueError: bad") + block(status=1)
    assert find_cause(text.splitlines()).text == "rank 2 on n1: ValueError: bad"
    assert find_cause(text.splitlines()).strength is ROOT


def test_the_troubleshooting_page_is_made_from_the_same_rules():
    page = (Path(__file__).parents[3] / "experiments/TROUBLESHOOTING.md").read_text()
    assert page == write_symptoms()  # python scripts/inspect_log.py --symptoms writes it
    assert page.count("\n| ") == 1 + len(RULES) >= 26
    assert "| srun: error: Node failure on n2 | node n2 failed | sbatch again without it" in page


@pytest.mark.parametrize(
    "died",
    [
        ['  File "/repo/scripts/job_summary.py", line 3, in <module>', "    import foo",
         "ModuleNotFoundError: No module named 'foo'"],
        ['  File "/repo/.venv/bin/psrecord", line 10, in <module>', "    sys.exit(main())",
         '  File "/repo/.venv/lib/python3.11/site-packages/psutil/__init__.py", line 360, in _init',
         "psutil.NoSuchProcess: process PID not found (pid=4711)"],
        ['  File "/opt/python/lib/python3.10/site-packages/psrecord/main.py", line 147, in monitor',
         "    pr = psutil.Process(pid)", "psutil.AccessDenied: (pid=4711)"],
    ],
    ids=["summary", "psrecord", "psrecord's module"],
)  # fmt: skip
def test_what_a_monitor_of_the_job_died_of_is_no_cause(died):
    log = ["Traceback (most recent call last):", *died]
    assert find_cause(log) is None
    for first in (["torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB", *log],
                  [*log, "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB"]):  # fmt: skip
        assert find_cause(first).text.startswith("the GPU's memory is full")


# ---- Whole logs with a known answer ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state", "cause", "hint"),
    [
        ("s1_smi_then_traceback.out", State.FAILED, "ValueError: bad batch", "traceback"),
        ("s5_killed.err", State.FAILED, "killed by SIGKILL", "memory ran out"),
        ("s18_oomk.out", State.OUT_OF_MEMORY, "used up its memory", "--mem"),
        ("s11_two_runs.out", State.CANCELLED, "stopped by scancel", "sbatch again"),
        ("early_error_then_limit.out", State.TIMED_OUT, "reached its time limit", "--time"),
        ("xid.out", State.FAILED, "n1: the GPU failed: NVRM: Xid", "--exclude=n1"),
        ("heartbeat.out", State.FAILED, "rank 0 on n1: a rank hung in NCCL", "a node that hangs"),
        ("node_failure.out", State.FAILED, "node n2 failed", "--exclude=n2"),
        ("driver_too_old.out", State.FAILED, "the node's driver is older", "for an older CUDA"),
        ("sigbus.out", State.FAILED, "rank 2 on n1 was killed by SIGBUS", "/dev/shm is full"),
    ],
)
def test_the_cause_of_a_whole_log(name, state, cause, hint):
    lines = (Path(__file__).parents[2] / "cases/slurm" / name).read_text().splitlines()
    found = find_cause(lines)
    assert found.state == state
    assert cause in found.text
    assert hint in found.hint
