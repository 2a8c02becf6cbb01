"""Plan when a schedule prunes: the steps of a training run at which there is more to prune than before."""

from dataclasses import dataclass
from typing import cast

from app.core.spec import Choice
from worker.pruning.protocols import Schedule
from worker.pruning.registry import build

# The schedule's 0..1 spans this part of the training steps; the rest trains with fixed masks, which is
# where a pruned network wins back most of what it lost.
PRUNING_FRACTION = 0.6
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class Round:
    """Before `step` (from 0) of the training, prune as far as the schedule says at `progress`."""

    number: int
    step: int
    progress: float
    fraction: float


def plan_rounds(schedule: Choice, training_steps: int) -> tuple[Round, ...]:
    """Return the rounds in order; without training (0 steps) they follow each other at step 0."""
    fraction_at = cast(Schedule, build("schedule", schedule.name, schedule.params)).fraction
    last_step = int(PRUNING_FRACTION * training_steps)
    most = min(_MOST_ROUNDS, last_step) if training_steps else _MOST_ROUNDS
    rounds: list[Round] = []
    for i in range(most + 1):
        progress = i / most if most else 1.0
        fraction, before = fraction_at(progress), rounds[-1].fraction if rounds else 0.0
        is_last_chance = i == most and not rounds
        if fraction > before or is_last_chance:
            rounds.append(Round(len(rounds) + 1, round(progress * last_step), progress, fraction))
    return tuple(rounds)
