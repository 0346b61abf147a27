"""Read a GPU monitor's CSV log: peak, average and mode of the used memory, per GPU.

Written by `nvidia-smi --query-gpu=timestamp,index,…,memory.used,… --format=csv[,nounits] -l 5`,
or by amd-smi or rocm-smi with --csv (see gpu_columns). Streamed with the standard library
only: a long job's log never sits in memory, and the commands that a job runs at its end
start at once. Every line is kept, dropped with a reason or ignored by a named rule, and the
three counts add up to the lines of the file.
"""

from pathlib import Path

from common.console import shorten
from common.errors import UserError
from scaling.read.gpu_columns import ERROR_TEXT
from scaling.read.gpu_fast import read_block
from scaling.read.gpu_reader import GpuReader, Sample
from scaling.read.gpu_series import GpuLog
from scaling.read.text import read_blocks


def read_gpu_log(path: Path, gpus: tuple[str, ...] = ()) -> GpuLog:
    """Return what one node's log says of each GPU's used memory, in MiB.

    gpus: the indices or uuids wanted; rows of others are ignored by that rule. Without it
    all count.
    Read: any columns in any order with a header that names memory.used (or AMD's words for
    it); a log without a header whose rows leave no doubt; units or none; repeated headers;
    CRLF; UTF-16 with a byte order mark; quoted line ends. GPUs are told apart by index and
    uuid, without an index by the uuid in order of appearance, without both by their order in
    each round.
    Dropped: a last line without its end (a cut number is never a shorter number), rows with
    another number of fields, NUL bytes, error texts, `[N/A]` (no data, never 0).
    A log without any sample is returned with `problem` set. Raises UserError when the
    file cannot be read, is not such a CSV, or its GPUs cannot be told apart.
    Source: nvidia-smi --help-query-gpu.
    """
    reader = _read_all(GpuReader(Path(path)))
    _refuse_other_files(reader)
    return make_log(reader, gpus)


def read_gpu_samples(path: Path, on_sample: Sample) -> GpuReader:
    """Call on_sample for each kept row; return the reader, with its columns and counts.

    GPUs that cannot be told apart are None there, and `untold` says why. Raises UserError
    when the file cannot be read.
    """
    return _read_all(GpuReader(Path(path), is_strict=False, on_sample=on_sample))


def read_gpu_columns(path: Path) -> GpuReader:
    """Return a reader that has counted every measure of the log (see read_gpu_samples)."""
    reader = GpuReader(Path(path), is_strict=False)
    reader.counts_columns = True
    return _read_all(reader)


def _read_all(reader: GpuReader) -> GpuReader:
    for block in read_blocks(reader.path):
        read_block(reader, block)
    reader.close()
    return reader


def _refuse_other_files(reader: GpuReader) -> None:
    is_error = ERROR_TEXT.search(reader.first_text)
    if reader.columns is None and reader.first_text and not is_error:
        raise UserError(
            f"{reader.path}: not an nvidia-smi CSV: no header line names memory.used; it has "
            f'"{shorten(reader.first_text, 80)}"'
        )
    if reader.columns is not None and reader.columns.memory is None:
        named = ", ".join(name for name in reader.columns.names if "vram" in name)
        only = f"{named} alone gives no MiB" if named else "no column memory.used"
        raise UserError(f"{reader.path}: not a log of GPU memory: {only}; log memory.used too")


def make_log(reader: GpuReader, gpus: tuple[str, ...] = ()) -> GpuLog:
    """Return the log that a closed reader has read, of the GPUs wanted (all when none named)."""
    wanted = {
        key: series
        for key, series in reader.series.items()
        if series.counts and (not gpus or str(key[0]) in gpus or key[1] in gpus)
    }
    kept = sum(series.counts.total() for series in wanted.values()) if gpus else reader.kept
    ignored = dict(reader.ignored)
    if reader.kept > kept:
        ignored["a GPU that was not asked for"] = reader.kept - kept
    return GpuLog(
        path=reader.path,
        gpus=tuple(wanted[key].summarise() for key in sorted(wanted)),
        lines=reader.lines,
        kept=kept,
        dropped=dict(reader.dropped),
        ignored=ignored,
        problem=None if wanted else _explain_nothing(reader, gpus),
    )


def _explain_nothing(reader: GpuReader, gpus: tuple[str, ...]) -> str:
    if reader.series:
        there = ", ".join(str(index) for index, _ in sorted(reader.series))
        return f"it has no GPU {' or '.join(gpus)}; there are {there}"
    if ERROR_TEXT.search(reader.first_text):
        return f'nvidia-smi said "{shorten(reader.first_text, 120)}"'
    reasons = ", ".join(f"{n} {reason}" for reason, n in reader.dropped.items())
    if not reasons:
        return "it has a header and no sample" if reader.columns else "it is empty"
    return f"no sample in it ({reasons})"
