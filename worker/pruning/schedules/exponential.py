"""The exponential schedule: the same share of what is left every time.

With a density falling as d^t from 1 to d, the pruned fraction of the target is (1 - d^t) / (1 - d).
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from worker.pruning.registry import Plugin, register
from worker.pruning.schedules.window import (
    EndFraction,
    InitialFraction,
    IntervalFraction,
    StartFraction,
    check_window,
    rise,
)

_FINAL_DENSITY = 0.1


@register(
    "schedule", "exponential", source="Frankle and Carbin 2019, arXiv:1803.03635, section 2: p^(1/n) a round"
)
class Exponential(Plugin):
    """Prune the same share of what is left every time, where the density comes down to `final_density`.

    Without one it is that of the target; 0.1 where the target is no sparsity.
    """

    start_fraction: StartFraction = 0.0
    end_fraction: EndFraction = 1.0
    interval_fraction: IntervalFraction = 0.0
    initial_fraction: InitialFraction = 0.0
    final_density: Annotated[
        float | None,
        Field(
            gt=0.0,
            lt=1.0,
            description="1 - target, the default, gives equal shares; smaller prunes earlier.",
        ),
    ] = None

    _checked = model_validator(mode="after")(check_window)

    def aimed_at(self, final_density: float) -> Self:
        """Return this schedule for a known final density; one that was given stays."""
        return self if self.final_density else self.model_copy(update={"final_density": final_density})

    def fraction(self, progress: float) -> float:
        """Return the fraction of the target due at a progress of 0..1."""
        density = self.final_density or _FINAL_DENSITY
        return rise(self, progress, curve=lambda t: (1.0 - density**t) / (1.0 - density))
