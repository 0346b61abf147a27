"""What prepare_data.py runs: each workload's sources, and how any data set is put in place.

options, download, publish, texts, bpe, catalogues <- tinyimagenet, gpt2, translation.
"""

from preparation import gpt2, tinyimagenet, translation
from preparation.publish import explain_os_error

WORKLOADS = (tinyimagenet, gpt2, translation)  # each has add_command(workloads)

__all__ = ["WORKLOADS", "explain_os_error"]
