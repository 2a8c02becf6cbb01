"""The cubic schedule of automated gradual pruning: fast while there is much to spare, slow at the end.

Zhu and Gupta 2017, arXiv:1710.01878, equation 1: s_t = s_f + (s_i - s_f) (1 - t)^3 for t from 0 to 1.
"""

from pydantic import model_validator

from worker.pruning.registry import Plugin, register
from worker.pruning.schedules.window import (
    EndFraction,
    InitialFraction,
    IntervalFraction,
    StartFraction,
    check_window,
    rise,
)


@register("schedule", "cubic", source="Zhu and Gupta 2017, arXiv:1710.01878, equation 1")
class Cubic(Plugin):
    """Prune fast at first and ever slower: s_f + (s_i - s_f)(1 - t)^3."""

    start_fraction: StartFraction = 0.0
    end_fraction: EndFraction = 1.0
    interval_fraction: IntervalFraction = 0.0
    initial_fraction: InitialFraction = 0.0

    _checked = model_validator(mode="after")(check_window)

    def fraction(self, progress: float) -> float:
        """Return the fraction of the target due at a progress of 0..1."""
        return rise(self, progress, curve=lambda t: 1.0 - (1.0 - t) ** 3)
