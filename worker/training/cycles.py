"""Plan the trainings of a recovery: one, or under a schedule of cycles one after every round."""

from dataclasses import dataclass, replace

from worker.pruning.protocols import Cycles
from worker.training.loop import Training
from worker.training.randomness import derive_seed


@dataclass(frozen=True)
class Phase:
    """One training, from `first_step` of its steps to the end.

    `round` is that of the schedule that is pruned before it: None when the training itself prunes or nothing
    is pruned, as in the dense training before the first round.
    """

    training: Training
    first_step: int = 0
    round: int | None = None

    @property
    def length(self) -> int:
        """How many steps it takes."""
        return self.training.steps - self.first_step


def plan_phases(training: Training, cycles: Cycles | None) -> tuple[Phase, ...]:
    """Return the trainings in their order.

    A training that starts from rewound weights draws what the first one drew from that step on: the same
    data in the same order (Frankle et al. 2020, arXiv:1912.05671, section 2). One that starts from the
    weights of the one before sees the data in a new order.
    """
    if cycles is None:
        return (Phase(training),)
    phases = [Phase(training)] if cycles.trains_dense_first else []
    for number in range(1, cycles.rounds + 1):
        if not phases:
            phases.append(Phase(training, round=number))
        elif cycles.rewind_fraction is not None:
            # The last step of the first training is the latest there is to train from.
            step = min(round(cycles.rewind_fraction * training.steps), training.steps - 1)
            phases.append(Phase(training, step, number))
        else:
            seed = derive_seed(training.seed, "cycle", number)
            phases.append(Phase(replace(training, seed=seed), round=number))
    return tuple(phases)
