"""scaling.read.causes: why a job failed, from the lines of its log."""

import pytest

from run_folders import epoch_line, out_text
from scaling.read.causes import State, find_cause, search_lines

PREEMPTED = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T10:00:00 DUE TO {} ***"
TRACEBACK = """\
Traceback (most recent call last):
  File "/repo/scripts/train.py", line 12, in <module>
    raise ValueError("CUDA out of memory")  # source text, not a message
    ^^^^^^^^^^^^^^^^^^^^^
{}
"""
PEER = "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242"
CHILD_FAILED = TRACEBACK.format(
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: "
)
EADDRINUSE = "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, code: -98, name: EADDRINUSE, message: address already in use"  # noqa: E501
CUDA_OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 31.73 GiB"  # noqa: E501

# A line of a real log; what the cause's text must hold; a word of the hint; the state.
CAUSES = [
    ("error: no data in /data; run prepare_data.py", "error: no data", "fix", State.FAILED),
    (
        "[rank 1 on node2] error: cannot decode n01443537_0.JPEG",
        "[rank 1 on node2] error: cannot decode n01443537_0.JPEG",
        "fix",
        State.FAILED,
    ),
    ("train.py: error: argument --epochs: invalid int value: 'x'", "--epochs", "fix", "failed"),
    (TRACEBACK.format("KeyError: 'labels'"), "KeyError: 'labels'", "traceback", "failed"),
    (
        TRACEBACK.format("PIL.UnidentifiedImageError: cannot identify image file"),
        "UnidentifiedImageError",
        "traceback",
        "failed",
    ),
    (TRACEBACK.format(CUDA_OOM), "CUDA out of memory. Tried", "--batch-size", "out of memory"),
    (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have "
        "been OOM Killed.",
        "used up its memory",
        "--mem",
        State.OUT_OF_MEMORY,
    ),
    (
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.batch.",
        "used up its memory",
        "--mem",
        State.OUT_OF_MEMORY,
    ),
    ("srun: error: node1: task 0: Out Of Memory", "used up its memory", "--mem", "out of memory"),
    (PREEMPTED.format("TIME LIMIT"), "reached its time limit", "--time", State.TIMED_OUT),
    (PREEMPTED.format("PREEMPTION"), "preempted", "requeue", State.CANCELLED),
    (PREEMPTED.format("NODE FAILURE"), "node of the job failed", "site", State.FAILED),
    (
        "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T10:00:00 ***",
        "stopped by scancel",
        "scancel",
        State.CANCELLED,
    ),
    (
        "node1:7:9 [0] NCCL WARN Bootstrap : no socket interface found",
        "no socket interface",
        "NCCL_SOCKET_IFNAME",
        "failed",
    ),
    (
        TRACEBACK.format("torch.DistBackendError: NCCL error in: a.cpp, ncclSystemError"),
        "NCCL error in",
        "NCCL_SOCKET_IFNAME",
        "failed",
    ),
    (TRACEBACK.format(EADDRINUSE), "EADDRINUSE", "port", "failed"),
    ("RuntimeError: Address already in use", "Address already in use", "port", "failed"),
    (
        TRACEBACK.format("socket.gaierror: [Errno -2] Name or service not known"),
        "Name or service not known",
        "master address",
        "failed",
    ),
    (
        TRACEBACK.format(
            "torch.distributed.DistNetworkError: The client socket has timed out after 60000ms "
            "while trying to connect to (node1, 29500)."
        ),
        "client socket has timed out",
        "network",
        "failed",
    ),
    (
        TRACEBACK.format("ModuleNotFoundError: No module named 'torch'"),
        "No module named 'torch'",
        "environment",
        "failed",
    ),
    (
        "/var/spool/slurmd/job00012/slurm_script: line 80: torchrun: command not found",
        "torchrun: command not found",
        "Software section",
        "failed",
    ),
    (
        TRACEBACK.format("OSError: [Errno 28] No space left on device"),
        "No space left",
        "RUN_DIR",
        "failed",
    ),
    (
        "python: can't open file '/x/train.py': [Errno 2] No such file or directory",
        "can't open file",
        "own folder",
        "failed",
    ),
    ("  exitcode  : -9 (pid: 4242)", "exitcode", "--mem", State.FAILED),
    (TRACEBACK.format(PEER), "Connection closed by peer", "another process", "failed"),
    (CHILD_FAILED, "ChildFailedError", "another process", "failed"),
]


@pytest.mark.parametrize(("text", "words", "hint", "state"), CAUSES, ids=[c[1] for c in CAUSES])
def test_causes(text, words, hint, state):
    noise = "node1:12:12 [0] NCCL INFO Connection closed by peer, error: not one\n"
    for prefix in ("", "0: ", "[rank1]: "):
        lines = [noise, *(prefix + line for line in text.splitlines()), noise]
        cause = find_cause(lines)
        assert words in cause.text
        assert hint in cause.hint
        assert cause.state == state
        assert "\n" not in cause.text + cause.hint


def test_a_log_without_an_error_has_no_cause():
    text = out_text() + "wandb: WARNING error rate is fine\nJob 12: complete (exit status 0)\n"
    search = search_lines(text.splitlines())
    assert (search.choose(), search.ending) == (None, None)


OWN = "[rank 1 on node2] error: cannot decode n01443537_0.JPEG"


@pytest.mark.parametrize(
    "echo",
    [
        TRACEBACK.format(PEER),
        CHILD_FAILED,
        TRACEBACK.format("torch.distributed.elastic.api.SignalException: Process 7 got signal: 15"),
        "[rank 0 on node1] error: RuntimeError: Connection closed by peer",
        "slurmstepd: error: *** STEP 12.0 ON node2 CANCELLED AT 2026-11-21T10:00:00 ***",
        "srun: error: node1: task 0: Exited with exit code 1",
        TRACEBACK.format("RuntimeError: DataLoader worker (pid 7) exited unexpectedly"),
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


def test_oom_is_the_cause_though_slurm_says_it_last():
    text = "[rank 0 on node1] error: RuntimeError: what a dying peer made of it\n" + CAUSES[6][0]
    assert find_cause(text.splitlines()).state is State.OUT_OF_MEMORY


def test_an_error_that_the_training_outlived_gives_way():
    text = TRACEBACK.format("ImportError: no apex") + epoch_line(1) + "\n" + CAUSES[6][0]
    assert find_cause(text.splitlines()).state is State.OUT_OF_MEMORY
    two = TRACEBACK.format("ImportError: no apex") + epoch_line(1) + "\nerror: real\n"
    assert find_cause(two.splitlines()).text == "error: real"
    buffered = TRACEBACK.format("ValueError: real") + epoch_line(1) + "\n" + CHILD_FAILED
    assert find_cause(buffered.splitlines()).text == "ValueError: real"


def test_an_older_attempts_error_is_not_this_ones():
    text = f"{OWN}\n{PREEMPTED.format('JOB REQUEUE')}\nerror: port taken\n"
    assert find_cause(text.splitlines()).text == "error: port taken"


def test_our_own_summary_in_the_log_is_not_read_as_a_cause():
    text = f"{OWN}\nFirst cause: CUDA out of memory\nJob 12: out of memory: oom_kill\n"
    assert find_cause(text.splitlines()).text == OWN


def test_time_limit_after_an_error_tells_both():
    search = search_lines([OWN, PREEMPTED.format("TIME LIMIT")])
    assert (search.choose().text, search.ending.state) == (OWN, State.TIMED_OUT)
