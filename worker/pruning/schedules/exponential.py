"""The exponential schedule: the same share of what is left every time.

With a density falling as d^t from 1 to d, the pruned fraction of the target is (1 - d^t) / (1 - d).
"""

from typing import Annotated

from pydantic import Field, model_validator

from worker.pruning.registry import Plugin, register
from worker.pruning.schedules.window import Fraction, check_window, rise


@register(
    "schedule", "exponential", source="Frankle and Carbin 2019, arXiv:1803.03635, section 2: p^(1/n) a round"
)
class Exponential(Plugin):
    """Prune the same share of what is left every time, down to `final_density`."""

    start_fraction: Fraction = 0.0
    end_fraction: Fraction = 1.0
    interval_fraction: Fraction = 0.0
    initial_fraction: Fraction = 0.0
    final_density: Annotated[
        float, Field(gt=0.0, lt=1.0, description="1 - target gives equal shares; smaller prunes earlier.")
    ] = 0.1

    _checked = model_validator(mode="after")(check_window)

    def fraction(self, progress: float) -> float:
        """Return the fraction of the target due at a progress of 0..1."""
        return rise(
            self, progress, curve=lambda t: (1.0 - self.final_density**t) / (1.0 - self.final_density)
        )
