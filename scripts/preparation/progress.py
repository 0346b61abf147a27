"""How far a long step is, on stderr."""

import sys
import time


class Progress:
    """Says on stderr how far a long step is: live on a terminal, every 10 s in a log."""

    def __init__(self, what: str, unit: str):
        self.what, self.unit, self.live = what, unit, sys.stderr.isatty()
        self.shown_s = time.monotonic()

    def show(self, done: float, total: float) -> None:
        if time.monotonic() - self.shown_s > (0.2 if self.live else 10):
            self.shown_s = time.monotonic()
            text = f"{self.what}: {done:,.0f} of {total:,.0f} {self.unit}"
            print(text, end="\x1b[K\r" if self.live else "\n", file=sys.stderr, flush=True)
