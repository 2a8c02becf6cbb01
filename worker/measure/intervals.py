"""How sure a measured number is: what is drawn for that is drawn with a fixed seed, so it repeats exactly."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]

RESAMPLE_DRAWS = 2_000
_SPEEDUP_DRAWS = 1_000

_Z95 = 1.959963984540054
_SEED = 20_040_229
# Numbers drawn at a time: 16 MB.
_CHUNK = 2_000_000


def compute_wilson_interval(hits: int, n: int) -> Interval:
    """Return the 95 % score interval of a proportion (Wilson 1927); it stays inside 0..1 at the edges."""
    share, z2 = hits / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the edges one bound is exactly the proportion; rounding would leave it a hair beside.
    return (0.0 if hits == 0 else centre - half, 1.0 if hits == n else centre + half)


def compute_drop_interval(became_wrong: int, became_right: int, n: int) -> Interval:
    """Return the 95 % interval of the drop of an accuracy, of n samples answered by both models.

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data": one sample more that became wrong, and one more that became right. Without them few
    changes would look too sure, and none at all like certainty; it holds the measured drop all the same.
    """
    wrong, right = (became_wrong + 1) / (n + 2), (became_right + 1) / (n + 2)
    half = _Z95 * math.sqrt((wrong + right - (wrong - right) ** 2) / (n + 2))
    return max(-1.0, wrong - right - half), min(1.0, wrong - right + half)


def compute_mcnemar_p(became_wrong: int, became_right: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947) that both changes are equally likely.

    It asks how often a fair coin, thrown once for each sample that changed, falls at least as lopsided.
    """
    changed, fewer = became_wrong + became_right, min(became_wrong, became_right)
    log_all = math.lgamma(changed + 1) - changed * math.log(2)
    tail = math.fsum(
        math.exp(log_all - math.lgamma(i + 1) - math.lgamma(changed - i + 1)) for i in range(fewer + 1)
    )
    return min(1.0, 2 * tail)


def resample(cell_of: npt.NDArray[np.int64], cells: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield how often each cell is drawn, [some draws, cells], until there are RESAMPLE_DRAWS rows.

    A draw takes n samples with replacement; `cell_of` [n] names the cell of each. Samples with the same
    answers can share a cell, which makes the sums over a draw short.
    """
    generator, n, left = np.random.default_rng(_SEED), len(cell_of), RESAMPLE_DRAWS
    while left:
        draws = min(left, max(1, _CHUNK // n))
        left -= draws
        drawn = cell_of[generator.integers(0, n, size=(draws, n))] + cells * np.arange(draws)[:, None]
        yield np.bincount(drawn.ravel(), minlength=draws * cells).reshape(draws, cells)


def compute_resampled_interval(draws: npt.NDArray[np.float64], *, around: float) -> Interval:
    """Return the 95 % percentile interval of a metric's draws, wide enough to hold the measured value.

    Where few samples decide, the draws may lie to one side of it.
    """
    low, high = _percentiles(draws)
    return min(low, around), max(high, around)


def compute_speedup_interval(
    dense_ms: npt.NDArray[np.float64], pruned_ms: npt.NDArray[np.float64]
) -> Interval:
    """Return the 95 % interval of median(dense) / median(pruned), times of alternating runs, both [repeats].

    Runs are drawn in pairs, so that a slow moment of the machine hits both sides alike.
    """
    repeats = len(dense_ms)
    picks = np.random.default_rng(_SEED).integers(0, repeats, size=(_SPEEDUP_DRAWS, repeats))
    return _percentiles(np.median(dense_ms[picks], axis=1) / np.median(pruned_ms[picks], axis=1))


def _percentiles(draws: npt.NDArray[np.float64]) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
