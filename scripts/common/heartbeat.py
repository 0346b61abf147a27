"""Where every rank of a run is, on disk once per second: a rank that hangs or dies can be named.

A rank that is stopped, sleeps or waits for something else keeps all others waiting in a collective
operation, and what these say in the end is "timed out". Each rank therefore has a small file,
heartbeat/rank<r>.json, that a thread of it writes again and again: the line of the trainer that it
is at, the collective that it waits in, its epoch and step. This needs nothing of PyTorch's.
"""

import json
import linecache
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

FOLDER = "heartbeat"
RANKS_PER_S = 32  # of all ranks together, so that a shared file system does not feel it
_HERE = Path(__file__).resolve().parent
# Frozen modules, the standard library, and what happens around a trainer's steps.
_NOT_OWN = ("<", str(Path(os.__file__).parent), str(_HERE), str(_HERE.parent / "training"))
FAILED = "failed: "  # a rank's last word begins so when it says itself why
TIMED_OUT, LOST_PEER = "timed out", "lost a peer"  # it waited in vain: another rank is why
SILENT_S = 4.0  # behind the others by this much: the rank's thread has stopped, too


class Heartbeat:
    """Writes this rank's file from a thread of its own until end() or fail() is called."""

    def __init__(self, results_dir: Path):
        self.rank, world_size = int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", 1))
        self.path = results_dir / FOLDER / f"rank{self.rank}.json"
        self.period_s = max(1.0, world_size / RANKS_PER_S)
        self.progress: Callable[[], dict] = dict  # {"epoch": from 1, "step": of this epoch}
        self.recorder: Callable[[], dict] = dict  # {"collectives": of each group}, or nothing
        self.recorded: list[dict] = [{}, {}]  # the last two
        self.facts = {
            "rank": self.rank,
            "world_size": world_size,
            "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "pid": os.getpid(),
        }
        if self.rank == 0:  # what an earlier attempt in this folder has said
            with suppress(OSError):
                (self.path.parent / "named").unlink()
        self.main = threading.main_thread().ident
        self.ended, self.lock = threading.Event(), threading.Lock()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        while not self.ended.is_set():
            self.write_now()
            self.ended.wait(self.period_s)

    def write_now(self) -> None:
        """Write where the main thread is."""
        self.recorded = [self.recorded[1], self.recorder()]
        self.write(locate(walk(sys._current_frames().get(self.main))))

    def write(self, where: dict, ended: str | None = None) -> None:
        """Replace the file; a disk that is full is no reason to end a training."""
        now = {"utc_s": round(time.time(), 3), "monotonic_s": round(time.monotonic(), 3)}
        before, recorded = self.recorded
        if ended and list_waits(before) and not list_waits(recorded):
            recorded = before  # a collective that timed out is no longer waited for
        facts = {**self.facts, **self.progress(), **recorded, **where, **now, "ended": ended}
        with suppress(OSError), self.lock:
            if ended is None and self.ended.is_set():
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(facts) + "\n")
            temporary.replace(self.path)

    def fail(self, how: str, error: BaseException) -> None:
        """Write this rank's last word: how it ended, and where the error was raised."""
        if not self.ended.is_set():
            self.ended.set()
            self.write(locate(walk_traceback(error.__traceback__)), how)

    def end(self) -> None:
        """This rank has done all it had to: its file goes, and with the last one the folder."""
        self.ended.set()
        with suppress(OSError), self.lock:
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()

    def is_first_to_name(self) -> bool:
        """Whether no other rank has said yet which one hangs: one alone does."""
        try:
            (self.path.parent / "named").touch(exist_ok=False)
        except OSError:
            return False
        return True


# ---- Where a process is --------------------------------------------------------------------


def walk(frame: FrameType | None) -> list[tuple[str, int, str]]:
    """(file, line, function) of a frame and its callers, the innermost first."""
    found = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return found


def walk_traceback(traceback: TracebackType | None) -> list[tuple[str, int, str]]:
    """(file, line, function) from where an error was raised outwards."""
    found = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        found.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return found[::-1]


def locate(frames: list[tuple[str, int, str]]) -> dict:
    """Return {"line": "train.py:236", "code": its text, "in": the collective or None}.

    The line is the trainer's own: the innermost that is neither Python's nor a library's.
    """
    collective = None
    for file, line, function in frames:
        if not file.startswith(_NOT_OWN) and "-packages" not in file:
            code = linecache.getline(file, line).partition("  #")[0].strip()[:80]
            return {"line": f"{Path(file).name}:{line}", "code": code, "in": collective}
        collective = name_collective(file, function) or collective
    return {"line": None, "code": None, "in": collective}


def name_collective(file: str, function: str) -> str | None:
    """What a function of PyTorch's waits for, None when that is no other rank."""
    file = file.replace(os.sep, "/")
    if file.endswith("torch/distributed/distributed_c10d.py") and function[0] != "_":
        return function
    if file.endswith("torch/distributed/rendezvous.py"):
        return "rendezvous"
    if file.endswith("torch/autograd/graph.py"):
        return "backward, where gradients are averaged"
    if file.endswith("torch/nn/parallel/distributed.py") and "broadcast" in function:
        return "broadcast of buffers"
    return None


# ---- Which rank the others wait for --------------------------------------------------------


def read_heartbeats(results_dir: Path) -> list[dict]:
    """What each rank has written last, by rank; a file that cannot be read is left out."""
    beats = []
    for path in Path(results_dir, FOLDER).glob("rank*.json"):
        with suppress(OSError, ValueError):
            beat = json.loads(path.read_text())
            if isinstance(beat, dict) and isinstance(beat.get("rank"), int):
                beats.append(beat)
    beats = [beat for beat in beats if beat["rank"] < beat.get("world_size", 1)]
    return sorted(beats, key=lambda beat: beat["rank"])


def name_hung(beats: list[dict]) -> str | None:
    """Say which rank the others waited for, where it is and what it never reached.

    None when no rank stands out: all wait at one place, or one has said itself why it failed.
    """
    if any(str(beat["ended"]).startswith(FAILED) for beat in beats):
        return None
    what, hung = find_hung(beats)
    if not hung:
        return None
    places = Counter(describe_place(beat) for beat in beats if beat not in hung)
    said = "; ".join(describe_hung(beat, what, beats) for beat in hung[:3])
    if not places:
        return said
    place, waiting = places.most_common(1)[0]
    ranks = "1 rank waits" if waiting == 1 else f"{waiting} ranks wait"
    missed = name_missed(hung[0], [beat for beat in beats if beat not in hung])
    return f"{said}; it never reached {place}, where {ranks}" + (f": {missed}" if missed else "")


def list_waits(beat: dict) -> list[tuple[str, int, str]]:
    """The collectives that a rank waits for, by PyTorch's record: (group, number, what)."""
    groups = beat.get("collectives") or {}
    waits = [(name, group.get("waits")) for name, group in groups.items()]
    return [(name, each["number"], each["what"]) for name, each in waits if each]


def name_missed(hung: dict, others: list[dict]) -> str | None:
    """Name the collective that the others wait for and the hung rank has not begun.

    `all_reduce of float[1000], number 21 of gloo group 0, of which it began 20`; None where the
    ranks' PyTorch records none.
    """
    waits = Counter(wait for beat in others for wait in list_waits(beat))
    if not waits:
        return None
    (group, number, what), _ = waits.most_common(1)[0]
    mine = (hung.get("collectives") or {}).get(group) or {"begun": 0, "waits": None}
    said = f"{what}, number {number} of {group}"
    if mine["begun"] < number:
        return f"{said}, of which it began {mine['begun']}"
    own = mine["waits"]
    if own and own["number"] == number and own["what"] != what:
        return f"{said}, where it began {own['what']} instead"
    return None


def find_hung(beats: list[dict]) -> tuple[str, list[dict]]:
    """Return what is wrong with the ranks that the others wait for, and these."""
    if not beats:
        return "", []
    # By then a rank that lives has written: when the first gave up, or shortly before the last.
    gave_up_s = [beat["utc_s"] for beat in beats if beat["ended"]]
    expected_s = min(gave_up_s) if gave_up_s else max(b["utc_s"] for b in beats) - SILENT_S
    silent = [beat for beat in beats if not beat["ended"] and beat["utc_s"] < expected_s]
    if silent:
        first_s = min(beat["utc_s"] for beat in silent)  # later ones may have been ended with it
        return "stopped answering", [b for b in silent if b["utc_s"] - first_s < SILENT_S]
    busy = [beat for beat in beats if beat["in"] is None]
    if busy and len(busy) < len(beats):
        return "hangs", busy
    places = Counter(map(describe_place, beats)).most_common()
    return "waits elsewhere", [beat for beat in beats if describe_place(beat) != places[0][0]]


def describe_hung(beat: dict, what: str, beats: list[dict]) -> str:
    """`rank 2 on node1 hangs in epoch 2, step 14, at time.sleep(9) (train.py:231)`."""
    behind_s = max(other["utc_s"] for other in beats) - beat["utc_s"]
    if what == "stopped answering" and behind_s > SILENT_S:
        what += f" {behind_s:.0f} s before the others"
    when = f" in epoch {beat['epoch']}, step {beat['step']}," if "epoch" in beat else ""
    return f"rank {beat['rank']} on {beat['node']} {what}{when} at {describe_place(beat)}"


def describe_place(beat: dict) -> str:
    """The collective or the trainer's code, and its line."""
    where = f" ({beat['line']})" if beat["line"] else ""
    return f"{beat['in'] or beat['code'] or 'its end'}{where}"
