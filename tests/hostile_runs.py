"""Runs whose logs, records and names try to become markup, for the tests of HTML pages."""

from pathlib import Path

from run_folders import gpu_csv, put, write_run
from study_folders import write_study_run

PAYLOADS = [
    "<script>window.hacked=1</script>",
    "</pre></details><img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1>',
    "' onmouseover='window.hacked=1",
    "<a href=\"javascript:window.hacked=1\">look</a>",
    "]]><![CDATA[<script>window.hacked=1</script>",
    "--><script>window.hacked=1</script><!--",
    "{{ 7 * 7 }}{% for x in range(9) %}x{% endfor %}{# gone #}",
    "</title><style>*{display:none}</style>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'>",
    "$\\frac{1}{0}$ &lt;b&gt; &#60;b&#62;",
    "\x1b]8;;javascript:window.hacked=1\x07link\x1b]8;;\x07",
]  # fmt: skip


def write_hostile_runs(root: Path) -> None:
    """A failed run, 66, whose log, records and file names are payloads; a complete one, 67."""
    log = "\n".join([*PAYLOADS, f"RuntimeError: {PAYLOADS[0]}"]) + "\n"
    traceback = f"Traceback (most recent call last):\n  x\nRuntimeError: {PAYLOADS[1]}\n"
    write_run(
        root, 1, 2, "66", out=log + traceback, complete=False, exit_status=1,
        strategy=PAYLOADS[0], precision=PAYLOADS[2], gpu_name=PAYLOADS[3], model=PAYLOADS[4],
        argv=PAYLOADS, hosts=[PAYLOADS[5]], **{PAYLOADS[6]: PAYLOADS[7]},
    )  # fmt: skip
    write_study_run(root, 1, 1, "67", workload=PAYLOADS[2], unit=PAYLOADS[0])
    header, *rows = gpu_csv({0: [1000, 2000]}).splitlines()
    log = root / "multi_gpu/2_gpus/gpu_memory/66/gpu_memory_log.csv"
    put(log, "\n".join([header, *PAYLOADS, *rows]) + "\n")
