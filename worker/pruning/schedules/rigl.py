"""The RigL schedule: sparse from the start, and every so often weak weights make room for promising ones.

Evci et al. 2020, arXiv:1911.11134, algorithm 1: every ΔT steps until T_end, the share
α/2 (1 + cos(t π / T_end)) of each layer's kept weights (section 3, the function f_decay) goes, those of least
magnitude, and as many come where the gradient is largest, with the value zero. Published with α = 0.3,
T_end = 3/4 of the run, a mask drawn by chance (criterion random) and the allocation erk.

Differs from the paper: the exchange comes after an optimizer step and reads the gradient of that step,
instead of taking its place. Meant for single weights: a whole group that is zero on its way in and out, as a
pruned attention head is, has hardly a gradient to come back by, and chance (set) serves it better.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from worker.pruning.registry import Plugin, register
from worker.pruning.schedules.exchange import IntervalFraction, StopFraction, check_progress, fade


@register("schedule", "rigl", source="Evci et al. 2020, arXiv:1911.11134, algorithm 1", needs=("training",))
class RigL(Plugin):
    """Prune at once, then exchange weak weights for those with large gradients while training."""

    grows_by: ClassVar[Literal["gradient", "chance"]] = "gradient"

    drop_fraction: Annotated[
        float, Field(gt=0.0, le=1.0, description="α: the share of kept weights exchanged at first.")
    ] = 0.3
    interval_fraction: IntervalFraction = 0.01
    stop_fraction: StopFraction = 0.75

    def fraction(self, progress: float) -> float:
        """Return 1: the whole target is due from the start."""
        check_progress(progress)
        return 1.0

    def share(self, progress: float) -> float:
        """Return the share of kept weights to exchange at a progress of 0..1 of the run."""
        return self.drop_fraction * fade(progress, self.stop_fraction)
