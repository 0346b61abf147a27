"""Any data set: there whole, with dataset.json to say where it came from, or not at all."""

import errno
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.files import hash_file


class Contents(NamedTuple):
    """What a workload's data sets are made of.

    things: what is counted, in the plural, for a message.
    count: returns the numbers in a data set's folder, by names that dataset.json records.
    describe: returns a few words for a whole dataset.json: identity and counts.
    """

    things: str
    count: Callable[[Path], dict[str, int]]
    describe: Callable[[dict], str]


def publish(target: Path, identity: dict, build: Callable[[Path], Path], contents: Contents) -> str:
    """Make the dataset at target, or find it there; return the line to print.

    identity: workload, source and parameters, which dataset.json records and later runs compare.
    build: is given an empty folder beside target and returns the dataset's root in it.
    Raises UserError when target holds anything else; it is never written over.
    """
    start_s = time.monotonic()
    if found := find_existing(target, identity, contents):
        return found
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target) as scratch:
        root = build(scratch)
        record = identity | contents.count(root)
        (root / "dataset.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        try:
            root.rename(target)
        except OSError:
            # Someone may have put the same data there in the meantime; then theirs will do.
            if found := find_existing(target, identity, contents):
                return found
            raise
    return f"{target} is ready: {contents.describe(record)}, {time.monotonic() - start_s:.1f} s"


def find_existing(target: Path, identity: dict, contents: Contents) -> str | None:
    """Return the line to print when target is the dataset wanted, None when target is free."""
    way_out = "choose another DIR, or remove this one first"
    if not target.exists():
        return None
    if not target.is_dir():
        raise UserError(f"{target} is not a folder; {way_out}")
    names = sorted(path.name for path in target.iterdir())
    if not names:
        return None
    try:
        record = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
        held = {key: record[key] for key in identity}
    except (OSError, ValueError, TypeError, KeyError):
        found = f"found: {', '.join(names[:3])}"
        what = f"{target} is in use and was not made by this command ({found})"
        raise UserError(f"{what}; {way_out}") from None
    if held != identity:
        raise UserError(f"{target} holds other data ({list_facts(held)}); {way_out}")
    if record != identity | contents.count(target):
        what = f"{target} has lost or gained {contents.things} since it was made"
        raise UserError(f"{what}; {way_out}")
    return f"{target} is already there: {contents.describe(record)}"


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder on target's own file system, and remove it afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def describe_left_out(counts: dict[str, int]) -> str:
    """Return what was left out, by reason, in brackets; nothing when all was used."""
    reasons = [f"{number:,} {reason}" for reason, number in counts.items() if number]
    return f" (left out: {', '.join(reasons)})" if reasons else ""


def list_facts(facts: dict) -> str:
    return ", ".join(
        list_facts(value) if isinstance(value, dict) else f"{key} {value}"
        for key, value in facts.items()
    )


def hash_texts(texts: Iterable[str]) -> str:
    """Return the sha256 of the texts one behind the other, in hexadecimal digits."""
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode())
    return total.hexdigest()


def hash_files(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of each file in root, by its name."""
    sums = {}
    for name in names:
        sums[name] = hash_file(root / name, hashlib.sha256())
    return sums


def explain_os_error(error: OSError, target: Path) -> str:
    """Return one line for a failed write to target: what failed and what to do."""
    where, reason = error.filename or target, error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space for {target} ({reason}); free some, or choose a DIR on another disk"
    return f"cannot write {where} ({reason}); choose a DIR in a folder that you may write to"
