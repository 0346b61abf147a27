"""Find the first cause of a failed job in its log, and say what to do about it.

The rules are data: the words that a line holds, one of them at least, and where these may mean
something else, a pattern. The wording is that of Slurm 22.05 to 24.05, torch 2, NCCL 2 and bash,
as they print it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

from common.console import shorten
from scaling.read.text import clean_line


class State(str, Enum):  # noqa: UP042 - StrEnum came with Python 3.11
    """How a run stands."""

    COMPLETE = "complete"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    CANCELLED = "cancelled"
    RUNNING = "running"
    NEVER_STARTED = "never started"

    def __str__(self) -> str:
        return self.value


class Strength(IntEnum):
    """How much a line says of why the job ended."""

    CONSEQUENCE = 1  # another process' end made this one fail
    WEAK = 2  # may be the cause, or the echo of one
    ROOT = 3
    CERTAIN = 4  # the kernel's or Slurm's own word, though it is often printed late


@dataclass(frozen=True)
class Cause:
    """Why a job ended: in words, what to do, and the log line it was read from (from 1).

    `excerpt` holds (line number, text) of the lines around it, where the log was read whole.
    """

    text: str
    hint: str
    state: State
    strength: Strength
    line_number: int
    excerpt: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Rule:
    """One kind of line: it holds one of these words, in small letters, and fits the pattern."""

    words: tuple[str, ...]
    hint: str
    pattern: re.Pattern | None = None
    text: str | None = None  # None: the line itself is the best wording
    strength: Strength = Strength.ROOT
    state: State = State.FAILED
    ends_job: bool = False  # Slurm says with it how the whole job ended
    ends_attempt: bool = False  # what follows in the log may be the next attempt

    def fits(self, line: str, small: str) -> bool:
        return any(map(small.__contains__, self.words)) and (
            self.pattern is None or bool(self.pattern.search(line))
        )


def _rule(words: str, hint: str, pattern: str = "", **more: object) -> Rule:
    """Return a rule; words are parted by |."""
    compiled = re.compile(pattern, re.IGNORECASE) if pattern else None
    return Rule(tuple(words.split("|")), hint, compiled, **more)


_ASK_MEMORY = "ask for more memory (#SBATCH --mem), or use fewer --num-workers"
_FIND_FIRST = "another process ended first: look for the first error above in the log"
_CHECK_NODES = "check that the nodes reach each other: the interface in NCCL_SOCKET_IFNAME"


# Tried in this order on each line; the first that fits decides.
RULES = (
    # Another process ended first.
    _rule(
        "connection closed by peer|connection reset by peer|broken pipe|ncclremoteerror|"
        "remote process exited|childfailederror|childfailedexception|signalerror|"
        "signalexception|job step aborted|pair closure|communicator was aborted|got 0 bytes",
        _FIND_FIRST,
        strength=Strength.CONSEQUENCE,
    ),
    _rule(
        "dataloader worker|*** step |srun: error: ",
        _FIND_FIRST,
        r"DataLoader worker .*(?:killed by|exited unexpectedly)|"
        r"\*\*\* STEP \S+ ON \S+ CANCELLED AT [^ ]+ \*\*\*|"
        r"srun: error: .*: (?:task|tasks) .*(?:Exited with|Terminated)",
        strength=Strength.CONSEQUENCE,
    ),
    # Slurm's own words.
    _rule(
        "oom_kill|oom-kill|out of memory handler|exceeded memory limit|"
        "exceeded job memory limit|exceeded step memory limit",
        _ASK_MEMORY,
        text="a process was killed: the job had used up its memory",
        strength=Strength.CERTAIN,
        state=State.OUT_OF_MEMORY,
    ),
    _rule(
        "srun: error: ",
        _ASK_MEMORY,
        "srun: error: .*: Out Of Memory",
        text="a process was killed: the job had used up its memory",
        strength=Strength.CERTAIN,
        state=State.OUT_OF_MEMORY,
    ),
    _rule(
        "due to time limit",
        "ask for more time (#SBATCH --time), or train fewer --epochs",
        text="reached its time limit",
        state=State.TIMED_OUT,
        ends_job=True,
    ),
    _rule(
        "due to preemption|due to job requeue",
        "a job of higher priority took the nodes: wait for the requeue, or sbatch again",
        text="preempted or requeued by Slurm",
        strength=Strength.WEAK,
        state=State.CANCELLED,
        ends_job=True,
        ends_attempt=True,
    ),
    _rule(
        "due to node failure",
        "sbatch again; tell the site which node it was",
        text="a node of the job failed",
        strength=Strength.WEAK,
        ends_job=True,
        ends_attempt=True,
    ),
    _rule(
        "node failure on ",
        "sbatch again without it (--exclude=NODE); tell the site which node it was",
        strength=Strength.CERTAIN,
    ),
    _rule(
        "*** job |*** step ",
        "somebody ran scancel, or Slurm was told to stop it: sbatch again",
        r"\*\*\* JOB \S+ ON \S+ CANCELLED AT|\*\*\* STEP \S+ ON \S+ CANCELLED AT .*DUE TO",
        text="stopped by scancel or by Slurm",
        state=State.CANCELLED,
        ends_job=True,
    ),
    _rule(
        "srun: error: ",
        "srun asked for more than the job has: compare the #SBATCH lines with the srun line",
        r"srun: error: .*(?:Unable to create step|configuration is not available|"
        r"Unable to allocate|More processors requested)",
    ),
    # The GPU and its libraries.
    _rule(
        "cuda out of memory|cuda error: out of memory|outofmemoryerror|cublas_status_alloc_failed",
        "the GPU's memory is full: lower --batch-size (it is per GPU)",
        state=State.OUT_OF_MEMORY,
    ),
    _rule(
        "xid",
        "the GPU failed: sbatch again without its node (--exclude=NODE), and tell the site",
        r"\bXid \(.*\): \d+",
    ),
    _rule(
        "cuda driver version is insufficient",
        "the node's driver is older than PyTorch's CUDA: install a build for an older CUDA",
    ),
    _rule(
        "invalid device ordinal|no cuda-capable device|no cuda gpus are available",
        "fewer GPUs are visible than processes started: check --gpus-per-node and nvidia-smi",
    ),
    _rule(
        "collective operation timeout",
        "a rank did not reach the same collective: look for an error of another rank above",
        strength=Strength.WEAK,
    ),
    _rule(
        "heartbeat monitor timed out",
        "a rank hung in NCCL: look for an error of another rank above, or at its node",
        strength=Strength.WEAK,
    ),
    _rule("nccl warn ", _CHECK_NODES, "NCCL WARN .*(?:timed out|refused)", strength=Strength.WEAK),
    _rule(
        "ncclsystemerror|ncclunhandledcudaerror|ncclinternalerror|ncclinvalidusage|nccl error",
        f"{_CHECK_NODES}; NCCL_DEBUG=INFO shows more",
    ),
    _rule(
        "nccl warn ",
        f"{_CHECK_NODES}; NCCL_DEBUG=INFO shows more",
        "NCCL WARN .*(?:error|fail|no socket interface|bootstrap)",
    ),
    # Meeting of the nodes.
    _rule(
        "address already in use|eaddrinuse",
        "another process holds the port: sbatch again, the job picks a free one",
    ),
    _rule(
        "name or service not known|temporary failure in name resolution|gaierror|"
        "nodename nor servname|gai error",
        "the head node's name has no address on this node: check the master address rule",
        strength=Strength.WEAK,
    ),
    _rule(
        "client socket has timed out|connection timed out|connect() timed out|"
        "connection refused|timeouterror|wait timeout",
        "a node did not come, or the network between the nodes is closed: look at its own lines",
        strength=Strength.WEAK,
    ),
    _rule(
        "rendezvous",
        "a node did not come, or the network between the nodes is closed: look at its own lines",
        "rendezvous.*timed? ?out",
        strength=Strength.WEAK,
    ),
    # The environment and the disk.
    _rule(
        "modulenotfounderror|importerror",
        "activate the environment that the job file names, or rebuild it from environment.yml",
    ),
    _rule(
        "command not found|execve(): |module(s) are unknown",
        "the environment or a module was not loaded: check the Software section of the job file",
        r"(?<!psrecord): command not found|execve\(\): .*No such file|module\(s\) are unknown",
    ),
    _rule(
        "can't open file |slurm_script: line ",
        "submit from the job file's own folder: cd there, then sbatch",
        r"can't open file .*No such file|slurm_script: line \d+: .*No such file or directory",
    ),
    _rule(
        "slurm_script: line ",
        "a variable that the job file needs is not set: the line names it",
        r"slurm_script: line \d+: .*unbound variable",
    ),
    _rule(
        "no space left on device|disk quota exceeded",
        "free space, or send the results elsewhere with RUN_DIR=…",
    ),
    _rule("read-only file system", "write elsewhere: RUN_DIR=… sbatch …"),
    _rule(
        "shared memory",
        "use fewer --num-workers",
        "bus error.*shared memory|insufficient shared memory",
    ),
    # Signals that only the launcher saw.
    _rule(
        "sigkill|exitcode|srun: error: |slurm_script: line ",
        f"often the kernel, because memory ran out: {_ASK_MEMORY}",
        r"signal 9 \(SIGKILL\)|exitcode\s*: -9\b|srun: error: .*: Killed\b|"
        r"slurm_script: line \d+: +\d+ Killed\b",
        strength=Strength.WEAK,
    ),
    _rule(
        "sigbus|exitcode|bus error",
        "/dev/shm is full or too small: use fewer --num-workers, or ask the site for more",
        r"signal 7 \(SIGBUS\)|exitcode\s*: -7\b|\bBus error\b",
        strength=Strength.WEAK,
    ),
    _rule(
        "segmentation fault|sigsegv|exitcode",
        "a library crashed: the lines above from PYTHONFAULTHANDLER say where",
        r"segmentation fault|signal 11 \(SIGSEGV\)|exitcode\s*: -11\b",
        strength=Strength.WEAK,
    ),
)

# Our trainers' and job files' own line; `srun: error:` and the like are not.
_OWN_ERROR = re.compile(r"(?:\[rank \d+ on [^\]]+\] )?error: \S|\S+\.py: error: \S")
_OWN_SUMMARY = re.compile(r"(?:Job \S+|First cause|What to do|Why): ")
_TRACEBACK = re.compile(r"(?:Original )?Traceback \(most recent call last\):")
_EXCEPTION = re.compile(
    r"(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Iteration|Warning|Group)"
    r"|(?:[A-Za-z_]\w*\.)+[A-Z]\w*)(?::.*|$)"
)
_WRAPPED = re.compile(r"Caught \w+ in DataLoader worker process")
# A line without any of them, in small letters, means nothing here outside a traceback.
WORDS = tuple({word for rule in RULES for word in rule.words} | {"error: ", "traceback (most"})

_FIX = "fix what this line names, then sbatch again"
_READ_TRACEBACK = "its traceback, in the log, shows where"


def find_cause(lines: Iterable[str]) -> Cause | None:
    """Return the first cause that the log shows, None when it shows none.

    A root cause goes before a doubtful one, and both before a consequence (a peer that
    closed its connection, torchrun's ChildFailedError); among equals the first one stands.
    Of Python tracebacks the last line of the first counts. What came before an epoch line
    did not end the job, and what came before a requeue belongs to another attempt.
    """
    return search_lines(lines).choose()


def search_lines(lines: Iterable[str]) -> CauseSearch:
    """Return a search that has taken the lines of a log in."""
    search = CauseSearch()
    for number, line in enumerate(lines, start=1):
        if "Epoch [" in line and " LR: " in line:
            search.pass_epoch()
        elif "NCCL INFO " not in line:
            search.add(number, clean_line(line))
    return search


class CauseSearch:
    """Takes the lines of a log in and chooses the cause that they show.

    `ending` is Slurm's own word of how the job ended, None without one.
    """

    def __init__(self):
        self.fresh: dict[Strength, Cause] = {}  # the first of each strength
        self.stale: dict[Strength, Cause] = {}  # those that the training outlived
        self.ending: Cause | None = None
        self.in_traceback = False

    def add(self, number: int, line: str) -> Cause | None:
        """Take a clean line in; return the cause that was read from it, if any is kept."""
        if self.in_traceback:
            if not line or line[0].isspace():
                return None  # the traceback's frames are source text, not messages
            if _EXCEPTION.match(line):
                self.in_traceback = False
                return self._take(_judge_exception(number, line))
        small = line.lower()
        if not any(map(small.__contains__, WORDS)):
            return None
        if _TRACEBACK.match(line.lstrip()):
            self.in_traceback = True
            return None
        if _OWN_ERROR.match(line):
            return self._take_own(_judge_own(number, line))
        rule = _find_rule(line)
        if rule is None or _OWN_SUMMARY.match(line):
            return None
        if rule.ends_attempt:
            self.fresh, self.stale = {}, {}
        cause = Cause(rule.text or shorten(line), rule.hint, rule.state, rule.strength, number)
        if rule.ends_job:
            self.ending = self.ending or cause
        return self._take(cause)

    def pass_epoch(self) -> None:
        """Take in that the training went on; an epoch line may be buffered past a later error."""
        if self.fresh:
            self.stale, self.fresh, self.ending = self.fresh | self.stale, {}, None

    def list_causes(self) -> list[Cause]:
        """Return the causes that may still be chosen."""
        return [*self.fresh.values(), *self.stale.values(), *filter(None, [self.ending])]

    def _take(self, cause: Cause) -> Cause:
        return self.fresh.setdefault(cause.strength, cause)

    def _take_own(self, cause: Cause) -> Cause:
        """Take our own line; it replaces the traceback that it closes, for it names the rank."""
        before = self.fresh.get(cause.strength)
        if before is not None and before.text[:60] in cause.text:
            self.fresh[cause.strength] = replace(before, text=cause.text)
        return self._take(cause)

    def choose(self) -> Cause | None:
        order = (
            *((self.fresh, s) for s in (Strength.CERTAIN, Strength.ROOT, Strength.WEAK)),
            *((self.stale, s) for s in (Strength.CERTAIN, Strength.ROOT, Strength.WEAK)),
            *((causes, Strength.CONSEQUENCE) for causes in (self.fresh, self.stale)),
        )
        return next((causes[s] for causes, s in order if s in causes), None)


def _find_rule(line: str) -> Rule | None:
    small = line.lower()
    return next((rule for rule in RULES if rule.fits(line, small)), None)


def _judge_exception(number: int, line: str) -> Cause:
    """Weigh a traceback's last line; a loader worker's wrapper leaves room for the original."""
    strength = Strength.WEAK if _WRAPPED.search(line) else Strength.ROOT
    rule = _find_rule(line)
    if rule is None:
        return Cause(shorten(line), _READ_TRACEBACK, State.FAILED, strength, number)
    return Cause(shorten(line), rule.hint, rule.state, min(strength, rule.strength), number)


def _judge_own(number: int, line: str) -> Cause:
    """Weigh our own `error:` line: it was written to be the cause, unless it blames a peer."""
    rule = _find_rule(line)
    if rule is None or rule.strength is Strength.WEAK:
        return Cause(shorten(line), _FIX, State.FAILED, Strength.ROOT, number)
    return Cause(shorten(line), rule.hint, rule.state, min(rule.strength, Strength.ROOT), number)
