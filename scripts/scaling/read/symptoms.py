"""What failed jobs print, what it means and what helps: a table, one row per kind of line.

A job that fails prints many such lines, for each process that ends takes others with it; so each
row also says how much its line is worth (Strength). `scaling.read.causes` looks for them. The
wording is that of Slurm 2 to 26, torch 1.10 to 2.15, NCCL 2 and bash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property

from scaling.read.text import find_words


class State(str, Enum):
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
    QUIET_DEATH = 2  # a rank ended as after an error that it printed: with 1, or by abort()
    WEAK = 3  # may be the cause, or the echo of one
    DEATH = 4  # a rank was killed, or ended with a status of its own
    ROOT = 5
    CERTAIN = 6  # the kernel's or Slurm's own word, though it is often printed late


CONSEQUENCE, QUIET_DEATH, WEAK, DEATH, ROOT, CERTAIN = Strength


@dataclass(frozen=True)
class Rule:
    """One kind of line, by a pattern that minds no case.

    id: its place in a page of symptoms; symptom: a line as it is printed. The cause and the fix may
    name groups of the pattern; where the line itself says more, it is quoted after the cause.
    """

    id: str
    cause: str
    fix: str
    pattern: str
    symptom: str
    strength: Strength = ROOT
    state: State = State.FAILED
    quotes: bool = True
    ends_job: bool = False  # Slurm says with it how the whole job ended
    ends_attempt: bool = False  # what follows in the log may be the next attempt
    is_ours: bool = False  # our own programs print it
    words: str = ""  # parted by |; in place of those that the pattern has

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """What a line has one of, in small letters: most lines have none of any rule."""
        return tuple(self.words.split("|") if self.words else find_words(self.pattern.lower()))

    @cached_property
    def _compiled(self) -> re.Pattern:
        return re.compile(self.pattern, re.IGNORECASE)

    def match(self, line: str, small: str) -> dict[str, str] | None:
        """Return the pattern's groups, None when the line is not of this kind."""
        found = any(map(small.__contains__, self.parts)) and self._compiled.search(line)
        return {name: text or "" for name, text in found.groupdict().items()} if found else None


FIX = "fix what this line names, then sbatch again"
RESTART_LOOP = "restart-loop"
_ASK_MEMORY = "ask for more memory (#SBATCH --mem), or use fewer --num-workers"
_FIND_FIRST = "look for the first error above in the log"
_NODES_MEET = "check that the nodes reach each other: the interface in NCCL_SOCKET_IFNAME"
_OTHER_NODE = "sbatch again without its node (--exclude=NODE), and tell the site"
_SHARED_MEMORY = (
    "use fewer --num-workers, remove old files of yours in /dev/shm; a container needs more of it"
)
_COMPARE = "compare the #SBATCH lines with the srun line; the words after the colon name the option"
_LOOK_AT_RANKS = "look for an error of another rank above, or for a node that hangs"
# `slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT … DUE TO … ***`, in the forms of Slurm 2 to 26.
_STARS = r"(?:(?:slurm\w+\S*|srun): |\] )(?:error: )?\*\*\* "
_CANCELLED = rf"{_STARS}JOB \d+\S*(?: ON \S+)? CANCELLED AT \S+"
_EITHER = rf"{_STARS}(?:JOB|STEP) \d+\S*(?: ON \S+)? CANCELLED AT \S+"

_SAID = "slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2026-01-06T04:52:18"

# Tried in this order on each line; the first that fits decides.
RULES = (
    # ---- Slurm says how the job ended ----
    Rule("time-limit", "reached its time limit",
         "ask for more time (#SBATCH --time), or train fewer --epochs",
         f"{_EITHER} DUE TO TIME LIMIT",
         f"{_SAID} DUE TO TIME LIMIT ***", state=State.TIMED_OUT, quotes=False, ends_job=True),
    Rule("preempted", "preempted or requeued by Slurm",
         "a job of higher priority took the nodes: wait for the requeue, or sbatch again",
         f"{_EITHER} DUE TO (?:PREEMPTION|JOB REQUEUE)",
         f"{_SAID} DUE TO PREEMPTION ***",
         strength=WEAK, state=State.CANCELLED, quotes=False, ends_job=True, ends_attempt=True),
    Rule("node-failure", "node {node} failed",
         "sbatch again without it (--exclude={node}); tell the site which node it was",
         r"\bNode failure on (?P<node>[\w.-]+)", "srun: error: Node failure on n2",
         strength=CERTAIN, quotes=False),
    Rule("node-failure-of-job", "a node of the job failed",
         "sbatch again; tell the site which node it was", f"{_EITHER} DUE TO NODE FAILURE",
         f"{_SAID} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***",
         strength=WEAK, quotes=False, ends_job=True, ends_attempt=True),
    Rule("node-memory", "the memory of node {node} is damaged",
         "sbatch again without it (--exclude={node}); tell the site",
         rf"{_STARS}\w+ \S+ ON (?P<node>[\w.-]+) UNCORRECTABLE MEMORY ERROR",
         "slurmstepd: error: *** STEP 9.0 ON n1 UNCORRECTABLE MEMORY ERROR AT 2026-01-06T04:52 "
         "***", strength=CERTAIN, quotes=False),
    Rule("step-ended", "Slurm ended what was left of the step", _FIND_FIRST,
         rf"{_STARS}STEP \S+(?: ON \S+)? CANCELLED AT|{_CANCELLED} DUE TO TASK FAILURE|"
         rf"{_STARS}\w+ \S+(?: ON \S+)? FAILED",
         "slurmstepd: error: *** STEP 9.0 ON n1 CANCELLED AT 2026-01-06T04:52:18 DUE TO TASK "
         "FAILURE ***", strength=CONSEQUENCE),
    Rule("cancelled", "stopped by scancel or by Slurm",
         "somebody ran scancel, or Slurm was told to stop it: sbatch again", _CANCELLED,
         f"{_SAID} DUE to SIGNAL Terminated ***",
         state=State.CANCELLED, quotes=False, ends_job=True),
    Rule("slurm-reason", "Slurm's reason: {reason}",
         "the reason names it; ask the site when it is not yours",
         rf"{_STARS}REASON: (?P<reason>.*?)(?: \*\*\*|$)",
         "slurmstepd: error: *** REASON: node n2 was drained ***", strength=WEAK, quotes=False),
    # ---- Memory of the node ----
    Rule("out-of-memory", "a process was killed: the job had used up its memory", _ASK_MEMORY,
         r"oom_kill|oom-kill|out of memory handler|exceeded (?:job |step )?memory limit|"
         r"memory cgroup out of memory|out of memory: kill|srun: error: .*: Out Of Memory",
         "slurmstepd: error: Detected 1 oom_kill event in StepId=9.0. Some of the step tasks "
         "have been OOM Killed.", strength=CERTAIN, state=State.OUT_OF_MEMORY, quotes=False),
    Rule("locked-memory", "too little memory may be locked for InfiniBand",
         "`ulimit -l` must say unlimited inside the job: type it before sbatch, or tell the site",
         r"ibv_reg_mr\w*\W.*fail|ibv_create_\w*\W.*fail|locked memory|ulimit -l|memlock",
         "n1:7:9 [0] misc/ibvwrap.cc:190 NCCL WARN Call to ibv_create_cq failed with error "
         "Cannot allocate memory"),
    Rule("host-memory", "the memory of the node or of the job is used up", _ASK_MEMORY,
         r"\b_?(?:Array)?MemoryError\b|bad_alloc|cannot allocate memory|can't allocate memory|"
         r"Unable to allocate \d",
         "terminate called after throwing an instance of 'std::bad_alloc'",
         state=State.OUT_OF_MEMORY),
    # ---- The GPU ----
    Rule("gpu-memory", "the GPU's memory is full", "lower --batch-size (it is per GPU)",
         "cuda out of memory|hip out of memory|xpu out of memory|cuda error: out of memory|"
         "hip error: out of memory|outofmemoryerror|_status_alloc_failed|'out of memory'",
         "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a "
         "total capacity of 31.73 GiB", state=State.OUT_OF_MEMORY),
    Rule("xid-of-program", "the GPU stopped the program",
         "most often the program's own fault: run it with CUDA_LAUNCH_BLOCKING=1; if other "
         "programs fail there too, --exclude=NODE", r"\bXid \(.*?\): (?:8|13|31|43|45|68|69)\b",
         "NVRM: Xid (PCI:0000:10:00): 31, pid=4711, name=python, MMU Fault", strength=WEAK),
    Rule("gpu-failed", "the GPU failed", _OTHER_NODE,
         r"\bXid \(.*?\): \d+|GPU is lost|fallen off the bus|Unable to determine the device handle|"
         "GPU requires reset", "NVRM: Xid (PCI:0000:10:00): 79, pid=1, GPU has fallen off the bus.",
         strength=CERTAIN),
    Rule("gpu-ecc", "the GPU's memory is damaged", _OTHER_NODE,
         r"uncorrectable (?:\w+ )?(?:ECC|NVLink) error\b|uncorrectable \w+\b.*\bencountered",
         "RuntimeError: CUDA error: uncorrectable ECC error encountered", strength=CERTAIN),
    Rule("driver-too-old", "the node's driver is older than PyTorch's CUDA",
         "install a PyTorch build for an older CUDA (nvidia-smi shows the newest that the "
         "driver takes)",
         "driver version is insufficient|driver on your system is too old|"
         "unsupported toolchain|cudaerrorinsufficientdriver|"
         "forward compatibility was attempted",
         "RuntimeError: CUDA driver version is insufficient for CUDA runtime version"),
    Rule("no-kernel-image", "this PyTorch build holds no code for this GPU",
         "install a build that has it: python -c 'import torch; "
         "print(torch.cuda.get_arch_list())'",
         "no kernel image|not compatible with the current pytorch|hiperrornobinaryforgpu|"
         "unable to find code object|invalid device function",
         "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    Rule("no-driver", "the node has no working GPU driver",
         "ask for a GPU partition; if the node has GPUs, --exclude=NODE and tell the site",
         "found no nvidia driver|driver/library version mismatch|"
         "couldn't communicate with the nv",
         "RuntimeError: Found no NVIDIA driver on your system."),
    Rule("too-few-gpus", "fewer GPUs are visible than processes started",
         "check --gpus-per-node and what nvidia-smi lists inside the job",
         "invalid device ordinal|no cuda-capable device|no cuda gpus are available|"
         "no hip gpus are available", "RuntimeError: CUDA error: invalid device ordinal"),
    Rule("two-ranks-one-gpu", "two ranks use the same GPU",
         "each rank takes its own: torch.cuda.set_device(LOCAL_RANK); no --gpus-per-task with "
         "torchrun", "duplicate gpu detected",
         "n1:7:9 [0] init.cc:795 NCCL WARN Duplicate GPU detected : rank 0 and rank 1 both on "
         "CUDA device 1000"),
    Rule("device-assert", "the program gave the GPU an index that is out of range",
         "run it with CUDA_LAUNCH_BLOCKING=1, and check labels and token ids against their "
         "ranges", "device-side assert|illegal memory access|assertion `t >= 0",
         "RuntimeError: CUDA error: device-side assert triggered"),
    # ---- Shared memory, disk, limits ----
    Rule("shared-memory", "shared memory (/dev/shm) is full or too small", _SHARED_MEMORY,
         r"bus error.*shared memory|insufficient shared memory|posix_fallocate failed|"
         r"(?:creating|attaching to|open|allocate) shared memory|"
         r"failed to \w+ /dev/shm|unable to write to file </torch_|Fatal Python error: Bus error|"
         r"worker .*killed by signal: Bus error|/dev/shm.*No space left|No space left.*/dev/shm",
         "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is "
         "possible that dataloader's workers are out of shared memory."),
    Rule("disk-full", "a file could not be written: the disk or your quota is full",
         "free space, or send the results elsewhere with RUN_DIR=…",
         r"No space left on device|disk quota exceeded|PytorchStreamWriter failed|"
         r"file write failed|inline_container\.cc.*unexpected pos",
         "RuntimeError: [enforce fail at inline_container.cc:778] . PytorchStreamWriter failed "
         "writing file data/3: file write failed"),
    Rule("read-only", "the results cannot be written there", "write elsewhere: RUN_DIR=… sbatch …",
         "read-only file system", "OSError: [Errno 30] Read-only file system: 'results'"),
    Rule("file-system", "the file system failed on this node", _OTHER_NODE,
         "stale file handle|input/output error|transport endpoint is not connected",
         "OSError: [Errno 116] Stale file handle: '/data/train'"),
    Rule("thread-limit", "the limit of processes and threads is reached",
         "export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1, use fewer --num-workers; `ulimit -u` "
         "shows the limit",
         r"pthread_create.*(?:fail|unavail)|can't start new thread|thread creation failed|"
         r"(?:fork|thread|Errno 11).*resource temporarily unavailable",
         "OpenBLAS blas_thread_init: pthread_create failed for thread 2 of 64: Resource "
         "temporarily unavailable"),
    Rule("open-files", "the limit of open files is reached",
         "type `ulimit -n 65536` before sbatch, or use fewer --num-workers",
         "too many open files|0 items of ancdata", "OSError: [Errno 24] Too many open files"),
    # ---- The environment ----
    Rule("module-not-loaded", "a module of the job file cannot be loaded",
         "module spider NAME shows which there are and what to load first; fix the Software "
         "section",
         r"cannot be loaded as requested|module\(s\) are unknown|"
         "unable to locate a modulefile",
         'Lmod has detected the following error:  The following module(s) are unknown: "pytorch"'),
    Rule("lmod-error", "a module of the job file cannot be loaded",
         "load it by hand on a login node; fix the Software section",
         "lmod has detected the following error",
         "Lmod has detected the following error:  Unable to load module because of error",
         strength=WEAK),
    Rule("glibc", "a package was built for a newer system than this node's",
         "make the environment on a node of this kind, or run in a container",
         r"version `?GLIBC\w*_[\d.]+'? not found",
         "python: /lib64/libc.so.6: version `GLIBC_2.34' not found (required by libtorch.so)"),
    Rule("package-missing", "Python does not find a package or a library",
         "activate the environment that the job file names, or make it with scripts/setup_env.sh",
         "modulenotfounderror|importerror|cannot open shared object file",
         "ModuleNotFoundError: No module named 'torch'"),
    Rule("command-not-found", "a command is missing: was the environment activated?",
         "check the Software section of the job file; scripts/setup_env.sh makes an environment",
         r"(?<!psrecord)(?<!nvidia-smi): command not found|execve\(\): .*No such file|"
         r"usr/bin/env: .*No such file", "slurm_script: line 80: torchrun: command not found"),
    Rule("activation-under-set-u", "the activation script reads a variable that is not set",
         "write set +u before the activation and set -u after it",
         r"(?:conda|activate|modules?|profile|bashrc)\S*: (?:line )?\d+: .*unbound variable|"
         r"PS1: unbound variable", "conda/etc/profile.d/conda.sh: line 55: PS1: unbound variable"),
    Rule("variable-not-set", "the variable {name} is not set",
         "export {name}=… before sbatch, or set it in the job file",
         r"line \d+: (?P<name>[A-Za-z_]\w*): unbound variable",
         "environment: line 14: DATA_DIR: unbound variable"),
    Rule("options", "", "fix the option in the job file; --help lists them",
         r"^[\w./-]+: error: (?:unrecognized arguments|ambiguous option|argument |"
         "the following arg|one of the arguments|invalid choice)",
         "torchrun: error: unrecognized arguments: --nproc-per-nod=2"),
    Rule("container", "the container did not start",
         "what follows FATAL names it: the image's path, a --bind folder, --nv", r"(?-i:\bFATAL): ",
         "FATAL:   could not open image /images/torch.sif: stat: no such file or directory",
         words="fatal: "),
    Rule("pyxis", "the container did not start",
         "check --container-image and --container-mounts: the path begins with / or ./",
         r"pyxis: (?:    .*(?:fail|error|no such|denied|invalid|not found)|.*\[ERROR\]|failed to|"
         "unable|invalid|couldn't (?!start))",
         "slurmstepd: error: pyxis:     enroot-switchroot: failed to execute: /bin/bash: No "
         "such file or directory"),
    Rule("pyxis-start", "the container did not start",
         "check --container-image and --container-mounts: the path begins with / or ./",
         r"pyxis: (?:container start failed|couldn't start|child \d+ failed)|"
         "spank: required plugin",
         "slurmstepd: error: pyxis: couldn't start container", strength=WEAK),
    Rule("job-folder", "a file of the job is not where it was looked for",
         "submit from the job file's own folder: cd there, then sbatch",
         r"can't open file .*No such file|slurm_script: line \d+: .*No such file or directory|"
         "couldn't chdir",
         "python: can't open file '/x/train.py': [Errno 2] No such file or directory"),
    # ---- The training ----
    Rule(RESTART_LOOP, "no progress in {count} restarts",
         "look above for what ended them, each at the same step; then remove attempts.json",
         r"error: no progress in (?P<count>\d+) restarts",
         "[rank 0 on n1] error: no progress in 3 restarts: each began after step 40 and ended "
         "there", is_ours=True),
    Rule("rank-hangs", "{said}",
         "look at that node and at that line: every rank must reach the same collectives",
         r"error: (?P<said>rank (?P<rank>\d{1,9}) on (?P<host>[\w.-]+) (?:stopped answering|hangs|"
         "waits elsewhere).*)",
         "[rank 0 on n1] error: rank 2 on n2 hangs in epoch 2, step 14, at time.sleep(9) "
         "(train.py:231); it never reached all_reduce (train.py:236), where 3 ranks wait",
         strength=WEAK, quotes=False, is_ours=True),
    Rule("loss-not-finite", "the loss is no number any more",
         "lower --lr, clip the gradients, use bf16 instead of fp16, and look at the last batch",
         r"loss\b[^,;\d]{0,40}\b(?:nan|inf|infinite|not finite|not a number)\b|"
         r"(?:nan|inf|non.?finite|infinite)\b.{0,20}\bloss|returned nan values|"
         "loss scale reached|nan or inf found", "Loss is nan, stopping training",
         words="is nan|is inf|nan loss|loss nan|non-finite|not finite|nan values|"
         "loss scale reached|became nan|infinite|is not a number|nan or inf"),
    Rule("interrupted", "interrupted (SIGINT)",
         "somebody pressed Ctrl-C or sent SIGINT: start it again", r"^KeyboardInterrupt",
         "KeyboardInterrupt", strength=WEAK, quotes=False),
    # ---- A peer went away: never the first ----
    Rule("peer-gone", "another process ended first", _FIND_FIRST,
         "connection closed by peer|connection reset by peer|broken pipe|ncclremoteerror|"
         "remote process exited|childfailederror|childfailedexception|signalerror|"
         "signalexception|job step aborted|pair closure|communicator was aborted|"
         "got 0 bytes|closing signal sig|detected by watchdog|"
         "taking the entire process down|death signal, shutting down|'should dump' flag|"
         "already completing or completed|waiting for job step to complete|"
         "socket recv failed|connection was likely closed|processraisedexception|"
         "returned non-zero exit status",
         "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer "
         "[10.0.0.2]:42", strength=CONSEQUENCE),
    Rule("loader-worker-gone", "a loader worker ended first", _FIND_FIRST,
         r"DataLoader worker .*(?:killed by signal: Terminated|exited unexpectedly)",
         "RuntimeError: DataLoader worker (pid 7) exited unexpectedly with exit code 1.",
         strength=CONSEQUENCE),
    Rule("loader-worker-killed", "a loader worker was killed",
         f"often the kernel, because memory ran out: {_ASK_MEMORY}",
         "DataLoader worker .*killed by signal: Killed",
         "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.", strength=WEAK),
    Rule("loader-worker-crashed", "a library crashed in a loader worker",
         "with --num-workers=0 the traceback shows where", "DataLoader worker .*killed by signal",
         "RuntimeError: DataLoader worker (pid 7) is killed by signal: Segmentation fault.",
         strength=WEAK),
    Rule("child-killed", "a rank was killed, or ended without a word",
         f"SIGKILL is often the kernel, because memory ran out: {_ASK_MEMORY}",
         "terminated with signal|terminated with exit code|exited on signal|"
         "died with <signals",
         "torch.multiprocessing.spawn.ProcessExitedException: process 1 terminated with signal "
         "SIGKILL", strength=WEAK),
    # ---- The ranks do not meet, or wait for one another ----
    Rule("port-taken", "another process holds the port", "sbatch again: the job picks a free port",
         "address already in use|eaddrinuse",
         "RuntimeError: The server socket has failed to listen on any local network address. "
         "port: 29500, code: -98, name: EADDRINUSE"),
    Rule("late-node", "only {here} of {all} came in time: a node was late or did not come",
         "look at that node's own lines; where nodes start slowly, raise --rdzv-conf=timeout=…",
         r"(?P<here>\d+)/(?P<all>\d+) (?:clients|workers) joined",
         "torch.distributed.DistStoreError: Timed out after 61 seconds waiting for clients. 1/2 "
         "clients joined.", strength=WEAK),
    Rule("no-interface", "the network interface does not exist on this node",
         "`ip -brief address` shows their names: fix NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, "
         "or unset them", "unable to find address for|no socket interface|unable to find interface",
         "RuntimeError: [enforce fail at gloo/transport/tcp/device.cc:83] ifa != nullptr. "
         "Unable to find address for: nope"),
    Rule("gloo-mesh", "the ranks cannot reach each other with gloo",
         "set GLOO_SOCKET_IFNAME to an interface that all nodes share; a node's name must not "
         "be 127.0.0.1 in /etc/hosts", "connectfullmesh failed",
         "RuntimeError: Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no "
         "error", strength=WEAK),
    Rule("collective-timeout", "a rank did not reach the same collective", _LOOK_AT_RANKS,
         r"collective operation timeout|Timed out waiting \d+ms for.*operation to complete|"
         "monitoredBarrier",
         "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, "
         "OpType=ALLREDUCE) ran for 600013 milliseconds before timing out.", strength=WEAK),
    Rule("nccl-hang", "a rank hung in NCCL", _LOOK_AT_RANKS,
         "heartbeat monitor timed out|watchdog got stuck",
         "[rank0]:[E ProcessGroupNCCL.cpp:1316] [PG 0 Rank 0] Heartbeat monitor timed out! "
         "Process will be terminated", strength=WEAK),
    Rule("nccl-cuda", "a GPU or its driver failed, which NCCL saw: not the network",
         f"look for Xid lines of that node (dmesg); {_OTHER_NODE}",
         "cuda failure|hip failure|ncclunhandledcudaerror|unhandled cuda error",
         "n1:7:9 [0] enqueue.cc:1556 NCCL WARN Cuda failure 'unspecified launch failure'",
         strength=WEAK),
    Rule("nccl-network-timeout", "NCCL cannot reach another node",
         f"{_NODES_MEET}; NCCL_DEBUG=INFO shows more",
         r"NCCL WARN .*(?:timed? ?out|refused|no route|unreachable)",
         "n1:7:9 [0] NCCL WARN socketStartConnect: Connect to 10.0.0.2<43> failed : Connection "
         "refused", strength=WEAK),
    Rule("nccl-error", "NCCL failed", f"{_NODES_MEET}; NCCL_DEBUG=INFO shows more",
         "ncclsystemerror|ncclinternalerror|ncclinvalidusage|nccl error",
         "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:317, unhandled "
         "system error, ncclSystemError: System call failed", strength=WEAK),
    Rule("nccl-warning", "NCCL failed", f"{_NODES_MEET}; NCCL_DEBUG=INFO shows more",
         "NCCL WARN .*(?:error|fail|bootstrap)",
         "n1:7:9 [0] NCCL WARN NET/IB : Got completion from peer with error 12", strength=WEAK),
    Rule("name-unknown", "the head node's name has no address on this node",
         "check the master address rule of the job file: getent hosts NAME on each node",
         "name or service not known|temporary failure in name resolution|gaierror|"
         "nodename nor servname|gai error|could not resolve host",
         "socket.gaierror: [Errno -2] Name or service not known", strength=WEAK),
    Rule("no-meeting", "a node did not come, or the network between the nodes is closed",
         "look at each node's own lines; check the firewall and the master address",
         r"client socket has timed out|connection timed out|connect\(\) timed out|socket timeout|"
         r"connection refused|timeouterror|wait timeout|no route to host|RendezvousConnectionError|"
         r"rendezvous.*(?:timed? ?out|timeout|refused)|(?:timed? ?out|timeout|refused).*rendezvous",
         "torch.distributed.DistNetworkError: The client socket has timed out after 60000ms "
         "while trying to connect to (node1, 29500).", strength=WEAK),
    # ---- srun itself, and what names no cause ----
    Rule("srun-memory", "srun was given two options that exclude each other",
         "the variables of another job were inherited: sbatch from a shell outside any job, or "
         "unset them", "are mutually exclusive|is mutually exclusive",
         "srun: fatal: SLURM_MEM_PER_CPU, SLURM_MEM_PER_GPU, and SLURM_MEM_PER_NODE are "
         "mutually exclusive."),
    # Of what names a task only its end is known; and srun talks of its own connections.
    Rule("srun-start", "srun could not start the tasks", _COMPARE,
         r"srun: fatal: |srun: error: (?!\S+: tasks? [\d,-]+: |_server_read|eio_|\*\*\*|"
         r"step_launch_notify_io|Timed out|slurm_\w+: |\S+: spank)",
         "srun: error: Unable to create step for job 9: More processors requested than permitted"),
    Rule("python-start", "Python does not find its own library",
         "unset PYTHONHOME and PYTHONPATH in the Software section; make the environment again",
         "Fatal Python error: (?:init|Py_Init|config_)",
         "Fatal Python error: init_fs_encoding: failed to get the Python codec"),
    Rule("python-crashed", "Python crashed",
         "a library crashed: the lines below it from PYTHONFAULTHANDLER say where",
         "Fatal Python error: (?!Aborted)", "Fatal Python error: Segmentation fault",
         strength=WEAK),
    Rule("library-gave-up", "a library gave up", "the line after it, what(), says why",
         "terminate called after throwing|fatal python error: aborted",
         "terminate called after throwing an instance of 'std::runtime_error'",
         strength=QUIET_DEATH),
)  # fmt: skip

# ---- How a process ended ----

# Number: (its name, as bash and srun call it, what to do, what it says of the cause).
SIGNALS = {
    1: ("SIGHUP", "Hangup", "the shell that started it was closed: use sbatch", CONSEQUENCE),
    2: ("SIGINT", "Interrupt", "somebody pressed Ctrl-C or sent SIGINT", WEAK),
    4: ("SIGILL", "Illegal instruction",
        "a package is built for another CPU: install it on a node of this kind", DEATH),
    6: ("SIGABRT", "Aborted", "a library gave up: its message stands above", QUIET_DEATH),
    7: ("SIGBUS", "Bus error", f"/dev/shm is full or too small: {_SHARED_MEMORY}", DEATH),
    8: ("SIGFPE", "Floating point exception", "a library divided by zero: see above", DEATH),
    9: ("SIGKILL", "Killed", f"often the kernel, because memory ran out: {_ASK_MEMORY}", DEATH),
    10: ("SIGUSR1", "User defined signal 1",
         'the time was nearly up and nobody listened: trap "" USR1 before torchrun', DEATH),
    11: ("SIGSEGV", "Segmentation fault",
         "a library crashed: the lines above from PYTHONFAULTHANDLER say where", DEATH),
    15: ("SIGTERM", "Terminated", _FIND_FIRST, CONSEQUENCE),
}  # fmt: skip


def write_symptoms() -> str:
    """Return the rules as a page of Markdown: what the log prints, the cause, the fix."""
    rows = []
    for rule in sorted(RULES, key=lambda rule: rule.strength == CONSEQUENCE):
        said = rule.match(rule.symptom, rule.symptom.lower()) or {}
        cells = (rule.symptom, rule.cause.format_map(said), rule.fix.format_map(said))
        rows.append("| " + " | ".join(map(_escape, cells)) + " |")
    return "\n".join([*_PAGE, *rows, ""])


def _escape(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


_PAGE = (
    "# When a job fails: what the log prints, why, and what to do",
    "",
    "The last lines of a job's log name the cause. This page has the same rules: it is written by",
    "`python scripts/inspect_log.py --symptoms > experiments/TROUBLESHOOTING.md`. Where a log has",
    "several of these lines, the table's last ones are only what the first cause brought about.",
    "",
    "| the log prints | cause | what to do |",
    "|---|---|---|",
)
