"""How many units go: the fewest with which a size is small enough, or the most that accuracy allows."""

from collections.abc import Callable
from dataclasses import dataclass

from worker.pruning.errors import UnreachableTarget


@dataclass(frozen=True)
class Probe:
    """What the model came to, in the target's unit, with so many units removed."""

    removed: int
    value: float


@dataclass(frozen=True)
class Goal:
    """The value of a metric that is asked for, and what of it is `due` in this round: all, unless told."""

    metric: str
    value: float
    due: float | None = None

    def is_due_met(self, value: float) -> bool:
        return value <= (self.value if self.due is None else self.due)

    def refuse(self, detail: str, nearest: float) -> UnreachableTarget:
        """Return the error that names what was asked for, and the nearest value there is."""
        return UnreachableTarget(detail, metric=self.metric, asked=self.value, nearest=nearest)


class NotMeasured(Exception):
    """With `count` units removed the model cannot be measured, for the `error` that it raised."""

    def __init__(self, count: int, error: Exception) -> None:
        super().__init__(f"{count} units removed: {error}")
        self.count = count
        self.error = error


def find_fewest(
    low: int, high: int, measure: Callable[[int], float], goal: Goal
) -> tuple[int, tuple[Probe, ...]]:
    """Return the fewest units, from low to high, whose removal brings a size down to the goal; all probes.

    Sizes fall as more goes; those measured with noise need not at every step. A count that raises NotMeasured
    is too many. Raises UnreachableTarget, naming the smallest size there is, and NotMeasured where no count
    is small enough that can be measured.
    """
    probes: list[Probe] = []

    def judge(count: int) -> bool | NotMeasured:
        try:
            probes.append(Probe(count, measure(count)))
        except NotMeasured as error:
            return error
        return goal.is_due_met(probes[-1].value)

    if (found := judge(low)) is True:
        return low, tuple(probes)
    if isinstance(found, NotMeasured):
        raise found
    if (found := judge(high)) is False:
        raise goal.refuse("even the smallest model is larger", probes[-1].value)
    while high - low > 1:
        middle = (low + high) // 2
        at_middle = judge(middle)
        if at_middle is False:
            low = middle
        else:
            high, found = middle, at_middle
    if isinstance(found, NotMeasured):
        raise found
    return high, tuple(probes)


def find_most(
    low: int, high: int, measure: Callable[[int], float], goal: Goal, *, probes: int
) -> tuple[int, tuple[Probe, ...]]:
    """Return the most units whose removal costs no more than the goal, as far as so many probes tell.

    Each probe may be a training, so the interval is halved only as often as is allowed. A count that raises
    NotMeasured costs too much. The least removal has to be, and may cost more than is due in this round.
    Raises UnreachableTarget when it costs more than is asked for in all.
    """
    done: list[Probe] = []

    def is_cheap(count: int) -> bool:
        try:
            done.append(Probe(count, measure(count)))
        except NotMeasured:
            if count == low:
                raise
            return False
        return goal.is_due_met(done[-1].value)

    if not is_cheap(low):
        if done[-1].value > goal.value:
            raise goal.refuse("already the least removal costs more", done[-1].value)
        return low, tuple(done)
    if is_cheap(high):
        return high, tuple(done)
    while high - low > 1 and len(done) < probes:
        middle = (low + high) // 2
        if is_cheap(middle):
            low = middle
        else:
            high = middle
    return low, tuple(done)
