"""Why a scale loses efficiency: `diagnose(study)` gives one Finding per scale."""

from scaling.diagnose.finding import DEFINITIONS, Finding, diagnose
from scaling.diagnose.loss import NAMED_POINTS, RULE

__all__ = ["DEFINITIONS", "NAMED_POINTS", "RULE", "Finding", "diagnose"]
