"""What happens around the steps of a trainer, and below it each workload's own parts."""

import re
import sys
from importlib import metadata

from common import FLOORS
from common.errors import UserError

try:  # without importing it, which takes seconds
    found = metadata.version("torch")
except metadata.PackageNotFoundError:  # its import says so
    found = "2.5"
if tuple(map(int, re.findall(r"\d+", found)[:2])) < (2, 5):
    sys.exit(f"error: {FLOORS}, this is PyTorch {found} ({sys.executable})")


class TrainingError(UserError):
    """Something the user can fix: the message says what is wrong and what to do about it.

    is_own: only this rank has met it, though the ranks have not met yet; it must say so itself.
    """

    is_own = False

    def __init__(self, message: str):
        # What a DataLoader worker raises, PyTorch raises again with the worker's whole traceback
        # for a message; its last line is "training.TrainingError: <the message>".
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())
