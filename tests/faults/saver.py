"""Run by measures.py: save checkpoint after checkpoint, until somebody kills this."""

import sys
from itertools import count
from pathlib import Path

import torch

from training.checkpoint import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]), {})
for step in count(1):
    checkpoints.save(step, {"model": torch.full((500_000,), step)})
