"""Every table of a study, in the order of a report."""

from scaling.advise.text import list_advice
from scaling.runs.study import Study
from scaling.tables.cost import make_cost
from scaling.tables.fixed_work import make_fixed_work
from scaling.tables.grid import Grid
from scaling.tables.summary import list_summary_grids


def list_study_grids(study: Study) -> list[Grid]:
    """Return advice, plan, fixed work, runs, ideal, cost and, from four scales on, the laws."""
    advice, *rest = list_advice(study)
    return [
        advice,
        make_fixed_work(study),
        *list_summary_grids(study),
        make_cost(study, energy_runs=1),
        *rest,
    ]
