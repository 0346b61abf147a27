"""Run trainers and probes in forks of one process that has imported PyTorch already.

    done = run_python(SCRIPTS / "train.py", "--epochs=1", ranks=2)    # like subprocess.run
    program = start_python(PROBE, ranks=2)                            # like subprocess.Popen
    done = run_torchrun(SCRIPTS / "train.py", ranks=2)                # the real launcher, no fork

Importing PyTorch takes a process seconds, and a test file starts dozens of them. Here the first
call starts a server, which imports PyTorch and what the trainers load of it; each program is then
a fork of the server that runs the script as __main__, with arguments, environment, folder and
output of its own. With ranks=N there are N forks, told who they are as torchrun would, and the
first that fails ends the others.

What is not the same as in a process of its own: modules are there before the script asks for them
(tests of imports and start-up use subprocess), and one thread computes, as in a job.
"""

import array
import atexit
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SCRIPTS = TESTS.parent / "scripts"
# Of the user or of the job that runs the tests; a program gets them from its test alone.
UNSET = (
    "RESULTS_DIR", "DATA_DIR", "CACHE_DIR", "CHECKPOINT_DIR", "COMET_", "WANDB_", "SLURM_",
    "MASTER_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
)  # fmt: skip
PR_SET_PDEATHSIG = 1  # prctl(2)
SAVED = 128 + signal.SIGTERM  # of a rank that SIGTERM has stopped: the others save, too


# ---- For the tests -------------------------------------------------------------------------


class Program:
    """A running script: `pids` are its ranks'. Its output is collected in two files."""

    def __init__(
        self, script: Path, args: list, ranks: int, cwd: Path | None, variables: dict, python: Path
    ):
        environment = make_environment(variables)
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - both stay open
        self.returncode, channels = None, []
        port = find_free_port() if ranks > 1 else 0
        for rank in range(ranks):
            request = {
                "argv": [str(script), *map(str, args)],
                "env": environment | (name_rank(rank, ranks, port) if ranks > 1 else {}),
                "cwd": str(cwd or Path.cwd()),
            }
            files = [file.fileno() for file in self._files]
            channels.append(ask_server(request, files, python))
        self.pids = [json.loads(channel.readline()) for channel in channels]
        self._running = dict(enumerate(channels))

    def poll(self) -> int | None:
        """The status as a shell shows it (128 + the signal's number), None while it runs."""
        self._wait(0)
        return self.returncode

    def send_signal(self, number: int, rank: int = 0) -> None:
        os.kill(self.pids[rank], number)

    def peek(self) -> str:
        """What it has written to stdout so far."""
        number = self._files[0].fileno()  # the ranks write at its offset: read without moving it
        return os.pread(number, os.fstat(number).st_size, 0).decode()

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Wait until all ranks have ended; returns what they wrote."""
        self._wait(timeout)
        if self.returncode is None:
            self._kill()
            raise subprocess.TimeoutExpired("forked program", timeout, *self._read())
        return self._read()

    def _wait(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as ready:
            for rank, channel in self._running.items():
                ready.register(channel, selectors.EVENT_READ, rank)
            while self._running:
                events = ready.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    return
                for key, _ in events:
                    ready.unregister(key.fileobj)
                    self._end(self._running.pop(key.data).readline())
        self.returncode = self.returncode or 0

    def _end(self, line: str) -> None:
        """Take a rank's status; the first that fails decides, and ends the others."""
        status = json.loads(line) if line else 1
        self.returncode = self.returncode or status or None
        if status not in (0, SAVED):
            self._kill()

    def _kill(self) -> None:
        for rank in self._running:
            with suppress(ProcessLookupError):
                os.kill(self.pids[rank], signal.SIGKILL)

    def _read(self) -> tuple[str, str]:
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode())
        return tuple(texts)


def start_python(
    script: Path, *args, ranks: int = 1, cwd: Path | None = None,
    python: Path = Path(sys.executable), **variables,
) -> Program:  # fmt: skip
    """Start `python script args`, by so many ranks; `variables` are added to the environment."""
    return Program(script, list(args), ranks, cwd, variables, python)


def run_python(
    script: Path, *args, ranks: int = 1, cwd: Path | None = None, timeout: float = 240, **variables
) -> subprocess.CompletedProcess:
    """Run `python script args` to its end; stdout and stderr are those of all ranks."""
    program = start_python(script, *args, ranks=ranks, cwd=cwd, **variables)
    out, err = program.communicate(timeout)
    return subprocess.CompletedProcess([str(script), *args], program.returncode, out, err)


def run_torchrun(script: Path, *args, ranks: int = 2, **variables) -> subprocess.CompletedProcess:
    """Run the script by torchrun, as jobs do: one such launch per trainer is enough."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", script, *args]
    return subprocess.run(
        list(map(str, command)), env=make_environment(variables), capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip


def make_environment(variables: dict) -> dict[str, str]:
    """This process's environment without what a program gets from its test alone."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(UNSET)}
    path = os.pathsep.join([*filter(None, [variables.get("PYTHONPATH")]), str(SCRIPTS)])
    others = {k: str(v) for k, v in variables.items()}
    return environment | {"OMP_NUM_THREADS": "1"} | others | {"PYTHONPATH": path}


def name_rank(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank in its environment."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


_servers: dict[Path, tuple[subprocess.Popen, str]] = {}  # one for each Python


def ask_server(request: dict, files: list[int], python: Path):
    """Ask for a program; returns a channel that yields its pid, and at its end its status."""
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(find_server(python))
    data = json.dumps(request).encode()
    # The descriptors travel with the first byte, the length and the request follow.
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
    channel.sendmsg([len(data).to_bytes(8, "big")], rights)
    channel.sendall(data)
    stream = channel.makefile("r")
    channel.close()  # the stream keeps it open
    return stream


def find_server(python: Path = Path(sys.executable)) -> str:
    """The address of a Python's server, which the first call starts."""
    if python not in _servers or _servers[python][0].poll() is not None:
        _servers[python] = start_server(python)
    return _servers[python][1]


def start_server(python: Path) -> tuple[subprocess.Popen, str]:
    """Start the server and wait until it listens; it ends with this process."""
    address = str(Path(tempfile.mkdtemp(prefix="torch_server")) / "socket")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        "PYTHONPATH": f"{SCRIPTS}:{TESTS}", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    process = subprocess.Popen(
        [python, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=environment,
    )  # fmt: skip
    atexit.register(stop_server, process)
    assert process.stdout.readline() == b"ready\n", "the server of PyTorch did not start"
    return process, address


def stop_server(process: subprocess.Popen) -> None:
    process.stdin.close()  # it ends by itself then
    process.wait(10)


# ---- The server ----------------------------------------------------------------------------


def serve(address: str) -> dict | None:
    """Fork a program for each connection; returns in the fork, with its request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(32)
    print("ready", flush=True)
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        ready.register(0, selectors.EVENT_READ)  # closed when the tests have ended
        while True:
            for key, _ in ready.select():
                if key.fileobj == 0:
                    os._exit(0)
                if key.fileobj is not listener:  # a program has ended
                    pid, channel = key.data
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    answer(channel, status if status >= 0 else 128 - status)
                    channel.close()
                    ready.unregister(key.fileobj)
                    os.close(key.fileobj)
                    continue
                channel, _ = listener.accept()
                request, files = receive(channel)
                pid = os.fork()
                if pid == 0:
                    for number, file in zip((1, 2), files, strict=True):
                        os.dup2(file, number)
                    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                    os.closerange(3, 1024)  # of the server and of other programs
                    return request
                for file in files:
                    os.close(file)
                answer(channel, pid)
                ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, channel))


def receive(channel: socket.socket) -> tuple[dict, list[int]]:
    size = array.array("i").itemsize
    head, rights, *_ = channel.recvmsg(8, socket.CMSG_LEN(2 * size))
    files = array.array("i", rights[0][2])
    left, data = int.from_bytes(head, "big"), b""
    while len(data) < left:
        data += channel.recv(left - len(data))
    return json.loads(data), list(files)


def answer(channel: socket.socket, number: int) -> None:
    with suppress(OSError):  # a test that has given up
        channel.sendall(f"{number}\n".encode())


def import_much() -> None:
    """What the trainers and PyTorch itself would load: DDP and optimizers load torch._dynamo."""
    import torch._dynamo
    import torch.distributed.algorithms.ddp_comm_hooks.default_hooks
    import torch.distributed.checkpoint.state_dict
    import torch.distributed.fsdp
    import torch.distributed.optim
    import torch.profiler
    import torchvision

    import train_translation  # noqa: F401

    assert torchvision and torch.get_num_threads() == 1
    # A fork keeps the thread that forks alone; a pool of others would be gone and waited for.
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "more than one thread"


def run_script(request: dict) -> int:
    """Be `python script args`; returns its exit status."""
    import random
    import runpy

    import numpy

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()  # a group of its own, which a test may kill as a whole
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.stderr.reconfigure(line_buffering=True)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
    tempfile.tempdir = None
    random.seed()
    numpy.random.seed()
    sys.argv = request["argv"]
    script = Path(sys.argv[0])
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(script.parent), *filter(None, before)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    import_much()
    status = run_script(serve(sys.argv[1]))
    with suppress(Exception):
        atexit._run_exitfuncs()
    with suppress(Exception):
        sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
