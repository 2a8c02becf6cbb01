"""The lottery ticket schedule: train, prune, go back to an early state of the weights, and again.

Frankle and Carbin 2019, arXiv:1803.03635, section 2: each of n rounds prunes the same share of what is left
and resets the rest to the initial weights. Frankle et al. 2020, arXiv:1912.05671: to those at an early step
of the first training instead, where the initial ones do not do. The controls are theirs too: a mask drawn by
chance with the same count in every layer, and the mask on weights initialised anew.
"""

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field

from worker.pruning.protocols import Control
from worker.pruning.registry import Plugin, register
from worker.pruning.schedules.staircase import FinalDensity, Rounds, check_round, climbed, same_share


def _check_each_is_named_once(controls: tuple[Control, ...]) -> tuple[Control, ...]:
    if len(set(controls)) < len(controls):
        raise ValueError(f"name each control once, found {', '.join(controls)}")
    return controls


@register(
    "schedule",
    "lottery_ticket",
    source="Frankle and Carbin 2019, arXiv:1803.03635, section 2",
    needs=("training",),
)
class LotteryTicket(Plugin):
    """Train, prune and rewind in turns, by the same share of what is left every time."""

    trains_dense_first: ClassVar[bool] = True

    rounds: Rounds = 5
    rewind_fraction: Annotated[
        float,
        Field(
            ge=0.0, lt=1.0, description="Where in the first training to rewind to; 0: the initial weights."
        ),
    ] = 0.0
    controls: Annotated[
        tuple[Control, ...],
        Field(
            max_length=2,
            description="Trainings to compare the ticket with.",
            json_schema_extra={"uniqueItems": True},
        ),
        AfterValidator(_check_each_is_named_once),
    ] = ()
    final_density: FinalDensity = 0.1

    def aimed_at(self, final_density: float) -> Self:
        """Return this schedule for a known final density."""
        return self.model_copy(update={"final_density": final_density})

    def fraction_after(self, round: int) -> float:
        """Return the fraction of the target that is pruned after a round, 0 after round 0."""
        check_round(round, self.rounds)
        return same_share(round, self.rounds, self.final_density)

    def fraction(self, progress: float) -> float:
        """Return the fraction of the target due at a progress of 0..1 of all trainings, the dense one too."""
        return self.fraction_after(min(self.rounds, climbed(progress, self.rounds + 1)))
