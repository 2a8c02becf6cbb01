"""Plan when a schedule prunes: the steps of a training run at which there is more to prune than before."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from worker.pruning.protocols import Cycles, Regrows, Schedule
from worker.pruning.registry import build
from worker.pruning.schedules.one_shot import OneShot
from worker.pruning.schedules.window import Window

# A gradual schedule's 0..1 spans this part of the training steps; the rest trains with fixed masks, which is
# where a pruned network wins back most of what it lost.
PRUNING_FRACTION = 0.6
# The same where the scores are learned on the way: they want the time, and Sanh et al. 2020 (appendix A.1)
# cool down for about the last fifth of the run.
LEARNING_FRACTION = 0.8
_MOST_ROUNDS = 20
# Learned scores change all the time, and weights come back, so masks are chosen anew about so often.
_LEARNING_INTERVAL_FRACTION = 0.01
_MOST_ROUNDS_UNTRAINED = 1000


class NamedSchedule(Protocol):
    """A schedule as a recipe names it."""

    @property
    def name(self) -> str: ...
    @property
    def params(self) -> Mapping[str, Any]: ...  # Any: JSON, checked by the schedule


@dataclass(frozen=True)
class Round:
    """Before `step` (from 0) of the training, prune as far as the schedule says at `progress`."""

    number: int
    step: int
    progress: float
    fraction: float


def plan_rounds(
    schedule: NamedSchedule, training_steps: int, *, learns_scores: bool = False
) -> tuple[Round, ...]:
    """Return the rounds in order; without training (0 steps) they follow each other at step 0.

    `learns_scores` says that the criterion learns its scores from the training.
    """
    built = cast(Schedule, build("schedule", schedule.name, schedule.params))
    return find_rounds(built, training_steps, learns_scores=learns_scores)


def find_rounds(schedule: Schedule, training_steps: int, *, learns_scores: bool = False) -> tuple[Round, ...]:
    """Do the same for a schedule that is built already."""
    if isinstance(schedule, Regrows):
        return _rounds_of_regrowth(schedule, training_steps)
    last_step = last_pruning_step(training_steps, learns_scores=learns_scores)
    rounds: list[Round] = []
    for progress in _moments(schedule, last_step, training_steps, learns_scores=learns_scores):
        fraction, step = schedule.fraction(progress), round(progress * last_step)
        before = rounds[-1].fraction if rounds else 0.0
        is_last_chance = progress == 1.0 and not rounds
        if not (fraction > before or is_last_chance):
            continue
        if learns_scores and training_steps and progress > 0.0:
            # Without a step there is nothing learned to prune by.
            step = max(1, step)
        if training_steps and rounds and rounds[-1].step == step:
            rounds.pop()
        rounds.append(Round(len(rounds) + 1, step, progress, fraction))
    return tuple(rounds)


def last_pruning_step(training_steps: int, *, learns_scores: bool) -> int:
    """Return the step before which a gradual schedule's progress is 1."""
    if learns_scores:
        # Without a step there is nothing learned to prune by.
        return min(training_steps, max(1, int(LEARNING_FRACTION * training_steps)))
    return int(PRUNING_FRACTION * training_steps)


def _moments(
    schedule: Schedule, last_step: int, training_steps: int, *, learns_scores: bool
) -> Iterator[float]:
    """Yield rising progresses at which there may be more to prune, at the last of them all of it."""
    if isinstance(schedule, Cycles):
        count = schedule.rounds + int(schedule.trains_dense_first)
        yield from (i / count for i in range(count))
        yield 1.0
        return
    start, end = _find_span(schedule)
    room = round((end - start) * last_step) if training_steps else _MOST_ROUNDS_UNTRAINED
    if isinstance(schedule, Window) and schedule.interval_fraction > 0.0:
        interval = schedule.interval_fraction
        most = math.ceil((end - start) / interval)
        if most <= room:
            yield from (start + i * interval for i in range(most) if start + i * interval < end)
            yield end
            return
    elif learns_scores and training_steps:
        most = round((end - start) * LEARNING_FRACTION / _LEARNING_INTERVAL_FRACTION)
    else:
        most = _MOST_ROUNDS
    most = min(most, room)
    yield from (start + (end - start) * i / most for i in range(most))
    yield end


def _find_span(schedule: Schedule) -> tuple[float, float]:
    """Return the progresses between which there is more and more to prune."""
    if isinstance(schedule, OneShot):
        return schedule.start_fraction, schedule.start_fraction
    if isinstance(schedule, Window):
        return schedule.start_fraction, schedule.end_fraction
    return 0.0, 1.0


def _rounds_of_regrowth(schedule: Regrows, training_steps: int) -> tuple[Round, ...]:
    """Prune to the target before the first step, then drop and grow at every interval until the stop."""
    interval = max(1, round(schedule.interval_fraction * training_steps))
    stop = schedule.stop_fraction * training_steps
    steps = [0, *(step for step in range(interval, training_steps, interval) if step < stop)]
    return tuple(
        Round(number, step, step / training_steps if training_steps else 1.0, 1.0)
        for number, step in enumerate(steps, start=1)
    )
