"""A run's page in the report: its settings, epochs, timelines, log excerpts, counted lines."""

import json
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from common.console import shorten
from common.errors import UserError
from scaling.plots.timelines import Timeline, list_cpu_timelines, list_gpu_timelines
from scaling.read.line_counts import format_counts
from scaling.read.state import State
from scaling.read.text import clean_line, read_lines
from scaling.report.svg import draw_svg
from scaling.runs.find import Run
from scaling.runs.run_epochs import list_epochs
from scaling.runs.samples import read_samples

POINTS_PER_CHART = 1200  # shared by its lines, so that 200 runs stay a page that opens
LEAST_POINTS = 80
TAIL_LINES, TAIL_BYTES = 30, 1 << 16
BEFORE_CAUSE, AFTER_CAUSE = 8, 6
LONGEST_CHARS = 240  # of a line that is shown
MOST_EPOCHS = 40


@dataclass(frozen=True)
class Excerpt:
    title: str
    lines: list[tuple[int | None, str]]  # number (None: not counted) and text


@dataclass(frozen=True)
class Picture:
    """A timeline ready for the page; `keys` are its lines' names in the order of their colours."""

    title: str
    unit: str
    svg: str
    keys: list[str]
    note: str


@dataclass
class RunPage:
    """What the report shows of one run; every text is plain, to be escaped by the template."""

    anchor: str
    run: Run
    scale: str
    settings: list[tuple[str, str]] = field(default_factory=list)
    epochs: list[list[str]] = field(default_factory=list)
    score: str = ""
    unit: str = ""
    pictures: list[Picture] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    excerpts: list[Excerpt] = field(default_factory=list)

    @property
    def hint(self) -> str:
        return self.run.cause.hint if self.run.cause else ""


def make_run_page(run: Run, number: int) -> RunPage:
    """Read all that is shown of a run; a file that cannot be read costs its own part only."""
    page = RunPage(f"run-{number}", run, describe_scale(run), flatten(run.settings or {}))
    samples = read_samples(run)
    _add_epochs(page, run)
    gpus, nodes = max(run.gpus or 1, 1), max(run.nodes or 1, 1)
    for list_timelines, lines in ((list_gpu_timelines, gpus), (list_cpu_timelines, nodes)):
        most = max(POINTS_PER_CHART // min(lines, 8), LEAST_POINTS)
        page.pictures += [_picture(found) for found in list_timelines(samples, most)]
    if run.log is not None:
        count = len(run.log.unreadable)
        dropped = {"lines of an epoch that are not whole": count} if count else {}
        kept = sum(len(attempt.epochs) for attempt in run.log.attempts)
        rest = {"not an epoch's line": run.log.lines - kept - count}
        page.files.append((str(run.log_path), format_counts(run.log.lines, kept, dropped, rest)))
    page.files += [(str(path), words) for path, words in samples.files]
    page.excerpts = list_excerpts(run)
    return page


def describe_scale(run: Run) -> str:
    if not run.gpus:
        return "scale not known"
    nodes = f"{run.nodes} node{'s' if run.nodes != 1 else ''}"
    return f"{run.gpus} GPU{'s' if run.gpus != 1 else ''} on {nodes}"


def flatten(record: dict, prefix: str = "") -> list[tuple[str, str]]:
    """Return a record's values as (dotted name, text); lists as JSON, long texts shortened."""
    found = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found += flatten(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append((shorten(name, 80), shorten(text, 300)))
    return found


def _add_epochs(page: RunPage, run: Run) -> None:
    records = [record for record in list_epochs(run) if not record.get("is_superseded")]
    if not records:
        return
    scores = ("val_accuracy", "perplexity", "bleu")
    score = next((s for s in scores if any(r.get(s) is not None for r in records)), None)
    page.score = {"val_accuracy": "Accuracy (val)", "perplexity": "Perplexity", "bleu": "BLEU"}.get(
        score or "", ""
    )
    page.unit = next((r["unit"] for r in records if r.get("unit")), "")
    for record in records[-MOST_EPOCHS:]:
        value = record.get(score) if score else None
        if value is not None and score == "val_accuracy":
            shown = f"{100 * value:.2f} %"
        else:
            shown = _number(value, "{:.3f}")
        page.epochs.append([
            f"{record['epoch']}{' (warm-up)' if record.get('is_warmup') else ''}",
            _number(record.get("train_loss"), "{:.3f}"),
            _number(record.get("val_loss"), "{:.3f}"),
            *([shown] if score else []),
            _number(record.get("throughput_per_s"), "{:,.1f}"),
            _number(record.get("epoch_s"), "{:,.1f}"),
        ])  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "—" if value is None or value != value else form.format(value)


def _picture(timeline: Timeline) -> Picture:
    return Picture(
        timeline.title, timeline.unit, draw_svg(timeline), list(timeline.lines), timeline.note
    )


def list_excerpts(run: Run) -> list[Excerpt]:
    """Return the lines around the cause of a run that failed, and the last lines of its log."""
    if run.log_path is None:
        return []
    excerpts = []
    try:
        if run.cause is not None and run.state is not State.COMPLETE:
            excerpts.append(_cut_out(run.log_path, run.cause.line_number))
        last = read_tail(run.log_path)
    except (UserError, OSError) as error:
        return [Excerpt("Its log cannot be read", [(None, shorten(str(error)))])]
    if last:
        excerpts.append(Excerpt(f"The last {len(last)} lines of its log", last))
    return excerpts


def _cut_out(path: Path, line_number: int) -> Excerpt:
    first = max(line_number - BEFORE_CAUSE, 1)
    lines = islice(read_lines(path), first - 1, line_number + AFTER_CAUSE)
    found = [(number, _tidy(text)) for number, (text, _) in enumerate(lines, start=first)]
    return Excerpt(f"Line {line_number} of its log, where the cause was read", found)


def read_tail(path: Path) -> list[tuple[None, str]]:
    """Return the last lines of a text file; what lies before is not read."""
    with path.open("rb") as file:
        file.seek(0, 2)
        size = file.tell()
        file.seek(max(size - TAIL_BYTES, 0))
        data = file.read(TAIL_BYTES)
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")[1 if size > TAIL_BYTES else 0 :]  # the first one may be cut
    return [(None, line) for line in deque(map(_tidy, lines), TAIL_LINES + 1) if line][-TAIL_LINES:]


def _tidy(line: str) -> str:
    line = clean_line(line)
    return line if len(line) <= LONGEST_CHARS else line[: LONGEST_CHARS - 1] + "…"
