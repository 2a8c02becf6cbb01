"""How many units go: the fewest with which a size is small enough, or the most that accuracy allows."""

from collections.abc import Callable
from dataclasses import dataclass

from worker.pruning.errors import UnreachableTarget


@dataclass(frozen=True)
class Probe:
    """What the model came to, in the target's unit, with so many units removed."""

    removed: int
    value: float


def find_fewest(
    low: int, high: int, measure: Callable[[int], float], *, limit: float, metric: str
) -> tuple[int, tuple[Probe, ...]]:
    """Return the fewest units, from low to high, whose removal brings a size down to the limit; all probes.

    Sizes fall as more goes; those measured with noise need not at every step. Raises UnreachableTarget,
    naming the smallest size there is.
    """
    probes: list[Probe] = []

    def is_small(count: int) -> bool:
        probes.append(Probe(count, measure(count)))
        return probes[-1].value <= limit

    if is_small(low):
        return low, tuple(probes)
    if not is_small(high):
        raise UnreachableTarget(
            "even the smallest model is larger", metric=metric, asked=limit, nearest=probes[-1].value
        )
    while high - low > 1:
        middle = (low + high) // 2
        if is_small(middle):
            high = middle
        else:
            low = middle
    return high, tuple(probes)


def find_most(
    low: int, high: int, measure: Callable[[int], float], *, limit: float, metric: str, probes: int
) -> tuple[int, tuple[Probe, ...]]:
    """Return the most units whose removal costs no more than the limit, as far as so many probes tell.

    Each probe may be a training, so the interval is halved only as often as is allowed. Raises
    UnreachableTarget when already the least removal costs more.
    """
    done: list[Probe] = []

    def is_cheap(count: int) -> bool:
        done.append(Probe(count, measure(count)))
        return done[-1].value <= limit

    if not is_cheap(low):
        raise UnreachableTarget(
            "already the least removal costs more", metric=metric, asked=limit, nearest=done[-1].value
        )
    if is_cheap(high):
        return high, tuple(done)
    while high - low > 1 and len(done) < probes:
        middle = (low + high) // 2
        if is_cheap(middle):
            low = middle
        else:
            high = middle
    return low, tuple(done)
