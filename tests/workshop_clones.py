"""A workshop made up: one clone per participant, whose runs differ a little, and one slow node."""

from pathlib import Path

from run_folders import epoch_line, write_run
from study_folders import SCALES, throughput_of

SLOW, SHARE = "node03", 0.8


def write_workshop(
    root: Path, people: int, scales=SCALES, nodes: int = 20, slow: str = SLOW
) -> Path:
    """Write a run at each scale for each participant; returns `root`.

    Jobs are numbered from 1001 on and spread over the nodes; what is on `slow` reaches 80 % of the
    others, which differ by 1 % at most.
    """
    job = 1000
    for person in range(people):
        for count, gpus in scales:
            job += 1
            hosts = [f"node{(job + k) % nodes:02d}" for k in range(count)]
            rate = throughput_of(count * gpus) * (1 + 0.01 * (job * 37 % 21 - 10) / 10)
            rate *= SHARE if slow in hosts else 1
            lines = [epoch_line(n, 3, rate * (0.8 if n == 1 else 1)) for n in (1, 2, 3)]
            lines += ["Total training time: 93.1 s", "Best validation loss: 5.664"]
            write_run(root / f"person{person:02d}/experiments", count, gpus, str(job),
                      out="\n".join(lines) + "\n", hosts=hosts, used_mib=[20000],
                      rss_mib=[4000.0])  # fmt: skip
    return root
