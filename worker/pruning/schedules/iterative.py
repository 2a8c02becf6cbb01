"""The iterative schedule: prune a part, train to recover, and again.

Han et al. 2015, arXiv:1506.02626, section 3.4: pruning followed by retraining is one iteration, and several
of them reach further than one. Each round is followed by a training of its own, from the weights as they are.
"""

from typing import ClassVar, Literal, Self

from worker.pruning.protocols import Control
from worker.pruning.registry import Plugin, register
from worker.pruning.schedules.staircase import FinalDensity, Rounds, check_round, climbed, same_share


@register(
    "schedule", "iterative", source="Han et al. 2015, arXiv:1506.02626, section 3.4", needs=("training",)
)
class Iterative(Plugin):
    """Prune and train in turns, going on from the trained weights each time."""

    rewind_fraction: ClassVar[float | None] = None
    trains_dense_first: ClassVar[bool] = False
    controls: ClassVar[tuple[Control, ...]] = ()

    rounds: Rounds = 5
    spacing: Literal["linear", "geometric"] = "geometric"
    final_density: FinalDensity = 0.1

    def aimed_at(self, final_density: float) -> Self:
        """Return this schedule for a known final density."""
        return self.model_copy(update={"final_density": final_density})

    def fraction_after(self, round: int) -> float:
        """Return the fraction of the target that is pruned after a round, 0 after round 0."""
        check_round(round, self.rounds)
        if self.spacing == "linear":
            return round / self.rounds
        return same_share(round, self.rounds, self.final_density)

    def fraction(self, progress: float) -> float:
        """Return the fraction of the target due at a progress of 0..1 of all trainings together."""
        return self.fraction_after(min(self.rounds, climbed(progress, self.rounds) + 1))
