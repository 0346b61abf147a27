"""Scaling laws: the law that made the numbers is found, and nothing is said too far."""

import pytest

from common.errors import UserError
from scaling.advise.laws import (
    Link,
    fit_laws,
    predict_efficiency,
    predict_ring_s,
    predict_tree_s,
)

COUNTS = (1, 2, 4, 8, 16)
# The three laws at X1 = 100: what each gives is written out, not computed by the module.
AMDAHL = [100 * p / (1 + 0.05 * (p - 1)) for p in COUNTS]
GUSTAFSON = [100 * (p - 0.05 * (p - 1)) for p in COUNTS]
USL = [100 * p / (1 + 0.02 * (p - 1) + 0.003 * p * (p - 1)) for p in COUNTS]


@pytest.mark.parametrize(
    ("law", "rates", "values"),
    [
        ("Amdahl", AMDAHL, (100, 0.05)),
        ("Gustafson", GUSTAFSON, (100, 0.05)),
        ("USL", USL, (100, 0.02, 0.003)),
    ],
)
def test_the_law_that_made_the_numbers_is_found(law, rates, values):
    best = fit_laws(list(zip(COUNTS, rates, strict=True)))[0]
    assert best.law.name == law
    assert best.values == pytest.approx(values, rel=1e-3)
    assert best.error_pct < 0.01


def test_the_simpler_law_wins_a_tie():
    fits = fit_laws(list(zip(COUNTS, AMDAHL, strict=True)))  # USL with k = 0 is as good
    assert fits[0].law.name == "Amdahl"


def test_intervals_hold_the_truth_and_grow_with_noise():
    noisy = [rate * (1 + sign * 0.02) for rate, sign in zip(AMDAHL, (1, -1, 1, -1, 1), strict=True)]
    exact, rough = (
        next(f for f in fit_laws(list(zip(COUNTS, r, strict=True))) if f.law.name == "Amdahl")
        for r in (AMDAHL, noisy)
    )
    low, high = rough.intervals[1]
    assert low < 0.05 < high
    assert high - low > 10 * (exact.intervals[1][1] - exact.intervals[1][0])
    low, high = rough.predict_interval(32)
    assert low < rough.predict(32) < high


def test_ideal_scaling_has_no_serial_part():
    for fit in fit_laws([(p, 100.0 * p) for p in COUNTS]):
        assert fit.values == pytest.approx((100, *[0] * (len(fit.values) - 1)), abs=1e-4)


def test_superlinear_scaling_stays_within_the_laws():
    for fit in fit_laws([(1, 100.0), (2, 220.0), (4, 460.0), (8, 950.0)]):
        assert all(0 <= value <= 1 for value in fit.values[1:])


def test_fewer_than_four_points_are_refused():
    with pytest.raises(UserError, match="3 scales measured"):
        fit_laws([(1, 100.0), (2, 190.0), (4, 360.0)])
    with pytest.raises(UserError, match="3 scales measured"):  # repeats are no scales
        fit_laws([(1, 100.0), (1, 101.0), (2, 190.0), (4, 360.0)])


def test_usl_has_a_peak():
    best = fit_laws(list(zip(COUNTS, USL, strict=True)))[0]
    assert best.find_peak() == pytest.approx((0.98 / 0.003) ** 0.5, rel=1e-2)


# ---- Prediction -----------------------------------------------------------------------------

LINK = Link(10e9, 1e-5)  # 10 GB/s, 10 us


def test_ring_and_tree_by_hand():
    # 8 ranks, 100 MB: ring 14 x (10 us + 12.5 MB / 10 GB/s), tree 6 x 10 us + 200 MB / 10 GB/s.
    assert predict_ring_s(8, 100e6, LINK) == pytest.approx(14 * (1e-5 + 1.25e-3))
    assert predict_tree_s(8, 100e6, LINK) == pytest.approx(6e-5 + 0.02)
    assert predict_ring_s(1, 100e6, LINK) == predict_tree_s(1, 100e6, LINK) == 0


def test_efficiency_by_hand():
    assert predict_efficiency(0.1, 0.025) == pytest.approx(0.8)
    assert predict_efficiency(0.1, 0.025, hidden_s=0.02) == pytest.approx(0.1 / 0.105)
    assert predict_efficiency(0.1, 0.025, hidden_s=0.05) == 1
