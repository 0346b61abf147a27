"""What a failed write means to the person who prepares data."""

import errno
from pathlib import Path


def explain_os_error(error: OSError, target: Path) -> str:
    """Return one line for a failed write to target: what failed and what to do."""
    where, reason = error.filename or target, error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space for {target} ({reason}); free some, or choose a DIR on another disk"
    return f"cannot write {where} ({reason}); choose a DIR in a folder that you may write to"
