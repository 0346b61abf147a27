"""A workshop's runs: one clone of the repository per participant, below one folder; only read."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from scaling.read.foreign_log import LogChoice
from scaling.runs.find import find_runs
from scaling.runs.run import Run


@dataclass(frozen=True)
class Participant:
    """One participant's clone: `runs` of its experiments/, and a line for each that is unreadable.

    name: of the folder below the root.
    """

    name: str
    folder: Path
    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_participants(root: Path, choice: LogChoice | None = None) -> list[Participant]:
    """Return the clones below a folder, by name; a clone that cannot be read has a problem.

    A clone is a folder of root (or a link to one) with experiments/ in it, or one folder further
    down. Raises UserError when root is no folder, or has none in it.
    """
    if not root.is_dir():
        raise UserError(
            f"--participants {root}: no such folder; name the one that holds the clones"
        )
    try:
        folders = sorted(path for path in root.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise UserError(f"--participants {root}: cannot be read: {error.strerror}") from None
    found = [_read_clone(path, choice) for path in folders if path.is_symlink() or path.is_dir()]
    if not found:
        raise UserError(f"--participants {root}: no folder in it; there is one per participant")
    return found


def _read_clone(folder: Path, choice: LogChoice | None) -> Participant:
    """Read one clone; what is wrong with it concerns nobody else."""
    problems: list[str] = []
    handler = _Collector(problems)
    logger = logging.getLogger("scaling")
    was_propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        experiments = _find_experiments(folder)
        runs = find_runs(experiments, choice=choice)
        return Participant(folder.name, experiments, runs, problems)
    except (UserError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        return Participant(folder.name, folder, [], [f"{folder} cannot be read: {text}"])
    finally:
        logger.removeHandler(handler)
        logger.propagate = was_propagated


def _find_experiments(folder: Path) -> Path:
    if not folder.exists():  # a link that leads nowhere, or a folder closed to us
        raise UserError("it is not there, or closed to you")
    for path in (folder / "experiments", *sorted(folder.glob("*/experiments"))):
        if path.is_dir():
            return path
    next(folder.iterdir(), None)  # raises where it is closed to us
    raise UserError("no experiments/ in it")


class _Collector(logging.Handler):
    """Keeps warnings of folders that cannot be read."""

    def __init__(self, lines: list[str]):
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
