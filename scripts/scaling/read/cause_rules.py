"""What the lines of a failed job mean: one rule a kind of line, the most telling first.

The wording is that of Slurm 22.05 to 24.05, torch 2, NCCL 2 and bash, as they print it.
"""

import re
from enum import IntEnum
from typing import NamedTuple

from scaling.read.state import State


class Strength(IntEnum):
    """How much a line says of why the job ended."""

    CONSEQUENCE = 1  # another process' end made this one fail
    WEAK = 2  # may be the cause, or the echo of one
    ROOT = 3
    CERTAIN = 4  # the kernel's or Slurm's own word, though it is often printed late


class Rule(NamedTuple):
    pattern: re.Pattern
    strength: Strength
    state: State
    words: str | None  # None: the line itself is the best wording
    hint: str
    ends_job: bool  # Slurm says with it how the whole job ended
    ends_attempt: bool  # what follows in the log may be the next attempt


def _rule(
    pattern: str,
    hint: str,
    words: str | None = None,
    strength: Strength = Strength.ROOT,
    state: State = State.FAILED,
    ends_job: bool = False,
    ends_attempt: bool = False,
) -> Rule:
    compiled = re.compile(pattern, re.IGNORECASE)
    return Rule(compiled, strength, state, words, hint, ends_job, ends_attempt)


_ASK_MEMORY = "ask for more memory (#SBATCH --mem), or use fewer --num-workers"
_FIND_FIRST = "another process ended first: look for the first error above in the log"
_CHECK_NODES = "check that the nodes reach each other: the interface in NCCL_SOCKET_IFNAME"

# Tried in this order on each line; the first that fits decides.
RULES = (
    # Another process ended first.
    _rule(
        r"connection closed by peer|connection reset by peer|broken pipe|ncclRemoteError|"
        r"remote process exited|(?:childfailed|signal)(?:error|exception)|job step aborted|"
        r"\*\*\* STEP \S+ ON \S+ CANCELLED AT [^ ]+ \*\*\*|DataLoader worker .*(?:killed by|"
        r"exited unexpectedly)|pair closure|communicator was aborted|got 0 bytes|"
        r"srun: error: .*: (?:task|tasks) .*(?:Exited with|Terminated)",
        _FIND_FIRST,
        strength=Strength.CONSEQUENCE,
    ),
    # Slurm's own words.
    _rule(
        r"oom[_-]kill|out of memory handler|srun: error: .*: Out Of Memory|"
        r"exceeded (?:job |step )?memory limit",
        _ASK_MEMORY,
        "a process was killed: the job had used up its memory",
        Strength.CERTAIN,
        State.OUT_OF_MEMORY,
    ),
    _rule(
        r"DUE TO TIME LIMIT",
        "ask for more time (#SBATCH --time), or train fewer --epochs",
        "reached its time limit",
        state=State.TIMED_OUT,
        ends_job=True,
    ),
    _rule(
        r"DUE TO (?:PREEMPTION|JOB REQUEUE)",
        "a job of higher priority took the nodes: wait for the requeue, or sbatch again",
        "preempted or requeued by Slurm",
        Strength.WEAK,
        State.CANCELLED,
        ends_job=True,
        ends_attempt=True,
    ),
    _rule(
        r"DUE TO NODE FAILURE",
        "sbatch again; tell the site which node it was",
        "a node of the job failed",
        Strength.WEAK,
        ends_job=True,
        ends_attempt=True,
    ),
    _rule(
        r"\*\*\* JOB \S+ ON \S+ CANCELLED AT|\*\*\* STEP \S+ ON \S+ CANCELLED AT .*DUE TO",
        "somebody ran scancel, or Slurm was told to stop it: sbatch again",
        "stopped by scancel or by Slurm",
        state=State.CANCELLED,
        ends_job=True,
    ),
    _rule(
        r"srun: error: .*(?:Unable to create step|configuration is not available|"
        r"Unable to allocate|More processors requested)",
        "srun asked for more than the job has: compare the #SBATCH lines with the srun line",
    ),
    # The GPU and its libraries.
    _rule(
        r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|"
        r"CUBLAS_STATUS_ALLOC_FAILED",
        "the GPU's memory is full: lower --batch-size (it is per GPU)",
        state=State.OUT_OF_MEMORY,
    ),
    _rule(
        r"invalid device ordinal|no CUDA-capable device|CUDA driver version is insufficient|"
        r"No CUDA GPUs are available",
        "fewer GPUs are visible than processes started: check --gpus-per-node and nvidia-smi",
    ),
    _rule(
        r"watchdog caught collective operation timeout|collective operation timeout",
        "a rank did not reach the same collective: look for an error of another rank above",
        strength=Strength.WEAK,
    ),
    _rule(r"NCCL WARN .*(?:timed out|refused)", _CHECK_NODES, strength=Strength.WEAK),
    _rule(
        r"ncclSystemError|ncclUnhandledCudaError|ncclInternalError|ncclInvalidUsage|"
        r"NCCL error|NCCL WARN .*(?:error|fail|no socket interface|bootstrap)",
        f"{_CHECK_NODES}; NCCL_DEBUG=INFO shows more",
    ),
    # Meeting of the nodes.
    _rule(
        r"address already in use|EADDRINUSE",
        "another process holds the port: sbatch again, the job picks a free one",
    ),
    _rule(
        r"name or service not known|temporary failure in name resolution|gaierror|"
        r"nodename nor servname|gai error",
        "the head node's name has no address on this node: check the master address rule",
        strength=Strength.WEAK,
    ),
    _rule(
        r"client socket has timed out|connection timed out|connect\(\) timed out|"
        r"connection refused|rendezvous.*timed? ?out|TimeoutError|Wait timeout",
        "a node did not come, or the network between the nodes is closed: look at its own lines",
        strength=Strength.WEAK,
    ),
    # The environment and the disk.
    _rule(
        r"ModuleNotFoundError|ImportError",
        "activate the environment that the job file names, or rebuild it from environment.yml",
    ),
    _rule(
        r"(?<!psrecord): command not found|execve\(\): .*No such file|module\(s\) are unknown",
        "the environment or a module was not loaded: check the Software section of the job file",
    ),
    _rule(
        r"can't open file .*No such file|slurm_script: line \d+: .*No such file or directory",
        "submit from the job file's own folder: cd there, then sbatch",
    ),
    _rule(
        r"slurm_script: line \d+: .*unbound variable",
        "a variable that the job file needs is not set: the line names it",
    ),
    _rule(
        r"no space left on device|disk quota exceeded",
        "free space, or send the results elsewhere with RUN_DIR=…",
    ),
    _rule(r"read-only file system", "write elsewhere: RUN_DIR=… sbatch …"),
    _rule(r"bus error.*shared memory|insufficient shared memory", "use fewer --num-workers"),
    # Signals that only the launcher saw.
    _rule(
        r"signal 9 \(SIGKILL\)|exitcode\s*: -9\b|srun: error: .*: Killed\b",
        f"often the kernel for want of memory: {_ASK_MEMORY}",
        strength=Strength.WEAK,
    ),
    _rule(
        r"segmentation fault|signal 11 \(SIGSEGV\)|exitcode\s*: -11\b",
        "a library crashed: the lines above from PYTHONFAULTHANDLER say where",
        strength=Strength.WEAK,
    ),
)
ANY_RULE = re.compile("|".join(rule.pattern.pattern for rule in RULES), re.IGNORECASE)
# In small letters: a line without any of them fits no rule, is no traceback and no `error:`.
# An escape: a colour may part the words. Looking for words costs a hundredth of looking for
# patterns; a test holds them against the rules.
TELLING_WORDS = (
    "\x1b", "error", "traceback", "epoch [", "closed by peer", "reset by peer", "broken pipe",
    "*** ",
    "remote process exited", "signalexception", "childfailedexception", "job step aborted",
    "dataloader worker", "pair closure", "was aborted", "got 0 bytes", "oom", "out of memory",
    "memory limit", "due to ", "alloc_failed", "device ordinal", "cuda", "timeout", "timed out",
    "time out", "timedout", "nccl warn", "ncclinvalidusage", "already in use", "eaddrinuse",
    "not known", "name resolution", "servname", "refused", "not found", "execve", "are unknown",
    "can't open file", "slurm_script", "no space left", "quota exceeded", "read-only file system",
    "shared memory", "sigkill", "exitcode", "segmentation fault", "sigsegv", "killed",
)  # fmt: skip
