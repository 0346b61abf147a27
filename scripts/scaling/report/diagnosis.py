"""The report's part on why efficiency is lost: a scale's sentences, its table, a verdict."""

from dataclasses import dataclass, replace

from scaling.diagnose.loss import NAMED_POINTS
from scaling.diagnose.study import Finding, diagnose
from scaling.diagnose.text import make_grid
from scaling.runs.study import Study
from scaling.tables.grid import Grid

_SHORT = ("cause", "points", "here_s", "base_s")  # the sentences say the rest


@dataclass(frozen=True)
class DiagnosisPart:
    """What the page shows of one scale. causes: (sentence, what to do), the costliest first."""

    finding: Finding
    causes: tuple[tuple[str, str], ...]
    rest: str
    grid: Grid
    is_open: bool = False

    @property
    def headline(self) -> str:
        return self.finding.headline

    @property
    def lost_points(self) -> float:
        """Of a scale that is compared; 0 for others."""
        return self.finding.loss.lost_points if self.finding.base and self.finding.loss else 0.0


def list_diagnoses(study: Study) -> list[DiagnosisPart]:
    """Return a part a scale; the one that loses most is open, and leads the verdict."""
    parts = [_make_part(finding) for finding in diagnose(study)]
    worst = max(parts, key=lambda part: part.lost_points)
    return [replace(part, is_open=part is worst) for part in parts]


def _make_part(finding: Finding) -> DiagnosisPart:
    grid = make_grid(finding)
    headers = {name: text for name, text in grid.headers.items() if name in _SHORT}
    causes, rest = (), ""
    if finding.loss is not None:
        words = finding.words
        causes = tuple(
            (f"{cause.label}: {words.explain(cause)}.", words.advise(cause, finding.run))
            for cause in finding.loss.named
        )
        rest = f"{finding.loss.unexplained.label}: {words.explain_rest()}."
    return DiagnosisPart(
        finding, causes, rest, replace(grid, headers=headers, definitions=(), remarks=())
    )


def state_loss(workload: str, parts: list[DiagnosisPart]) -> str | None:
    """Return the verdict's sentence on the scale that loses most, None when little is lost."""
    compared = [part for part in parts if part.finding.base is not None]
    if not compared:
        return None
    worst = max(compared, key=lambda part: 100 - part.finding.efficiency_pct)
    lost = 100 - worst.finding.efficiency_pct
    if lost < NAMED_POINTS:
        return None
    where = f"{workload}: {worst.finding.scale.label} loses {lost:.1f} points of efficiency"
    signs = "".join(f" Seen: {text}." for text in worst.finding.seen)
    if worst.finding.loss is None:
        gaps = worst.finding.gaps
        return f"{where}. To what is not recorded" + (f": {gaps[0]}." if gaps else ".") + signs
    if not worst.causes:
        return f"{where}, and no cause stands out. {worst.rest}{signs}"
    first = worst.causes[0][0]
    more = ", ".join(f"{c.name} {c.points:.1f}" for c in worst.finding.loss.named[1:])
    return f"{where}. {first}" + (f" Then {more}." if more else "") + signs
