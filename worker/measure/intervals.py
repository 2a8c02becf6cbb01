"""Confidence intervals of measured numbers; those that draw use a fixed seed, so they repeat exactly."""

import math

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]

_Z95 = 1.959963984540054
_DRAWS = 10_000
_SEED = 20_040_229


def compute_wilson_interval(hits: int, n: int) -> Interval:
    """Return the 95 % score interval of a proportion (Wilson 1927); it stays inside 0..1 at the edges."""
    share, z2 = hits / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the edges one bound is exactly the proportion; rounding would leave it a hair beside.
    return (0.0 if hits == 0 else centre - half, 1.0 if hits == n else centre + half)


def compute_drop_interval(baseline: npt.NDArray[np.bool_], final: npt.NDArray[np.bool_]) -> Interval:
    """Return the 95 % interval of accuracy(baseline) - accuracy(final), by a paired bootstrap.

    Both are [n], correct or not, of the same samples. A difference of one sample is -1, 0 or 1, so drawing n
    samples with replacement is one multinomial draw of how often each of the three comes up (Efron and
    Tibshirani 1993, section 13.3: percentile interval).
    """
    n = len(baseline)
    lost, won = int((baseline & ~final).sum()), int((~baseline & final).sum())
    draws = np.random.default_rng(_SEED).multinomial(
        n, [lost / n, won / n, (n - lost - won) / n], size=_DRAWS
    )
    return _percentiles((draws[:, 0] - draws[:, 1]) / n)


def compute_speedup_interval(
    dense_ms: npt.NDArray[np.float64], pruned_ms: npt.NDArray[np.float64]
) -> Interval:
    """Return the 95 % interval of median(dense) / median(pruned), times of alternating runs, both [repeats].

    Runs are drawn in pairs, so that a slow moment of the machine hits both sides alike.
    """
    repeats = len(dense_ms)
    picks = np.random.default_rng(_SEED).integers(0, repeats, size=(_DRAWS // 10, repeats))
    return _percentiles(np.median(dense_ms[picks], axis=1) / np.median(pruned_ms[picks], axis=1))


def _percentiles(draws: npt.NDArray[np.float64]) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
