"""The linear schedule: the same amount every time."""

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


@register("schedule", "linear", source="Zhu and Gupta 2017, arXiv:1710.01878, equation 1 with exponent 1")
class Linear(Plugin):
    """Prune the same number of weights every time."""

    start_fraction: StartFraction = 0.0
    end_fraction: EndFraction = 1.0
    interval_fraction: IntervalFraction = 0.0
    initial_fraction: InitialFraction = 0.0

    _checked = model_validator(mode="after")(check_window)

    def fraction(self, progress: float) -> float:
        """Return the fraction of the target due at a progress of 0..1."""
        return rise(self, progress, curve=lambda t: t)
