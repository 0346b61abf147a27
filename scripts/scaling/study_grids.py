"""Every table of a study, in the order of a report."""

from scaling.advice_text import list_advice
from scaling.benchmark_text import list_summary_grids
from scaling.cost import make_cost
from scaling.fixed_work import make_fixed_work
from scaling.grid import Grid
from scaling.study import Study


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
