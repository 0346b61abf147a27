"""What every package may use: the standard library alone.

Every command imports this first, so it says in one line that a Python is too old; older ones must
be able to read it.
"""

import sys

FLOORS = "needs Python >= 3.10 and PyTorch >= 2.5"

if sys.version_info < (3, 10):  # noqa: UP036 - that is what it is for
    found = "Python %d.%d.%d" % sys.version_info[:3]  # noqa: UP031 - before 3.6, too
    sys.exit("error: " + FLOORS + ", this is " + found + " (" + sys.executable + ")")
