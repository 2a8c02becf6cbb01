"""The stairs of schedules that are several trainings: how much is pruned after each of their rounds."""

import math
from typing import Annotated

from pydantic import Field

Rounds = Annotated[
    int, Field(ge=1, le=1000, description="Prunings, each with a training of its own after it.")
]
FinalDensity = Annotated[
    float,
    Field(
        gt=0.0,
        lt=1.0,
        description="Density at the target, for equal shares of what is left; a target of sparsity says it.",
    ),
]
_HAIR = 1e-9


def check_round(number: int, rounds: int) -> None:
    """Refuse the number of a round that there is not."""
    if not 0 <= number <= rounds:
        raise ValueError(f"a round is a number from 0 to {rounds}, found {number}")


def same_share(number: int, rounds: int, final_density: float) -> float:
    """Return the pruned fraction of the target when each of `rounds` prunes the same share of what is left.

    The density falls as d^(i/n); of the target 1 - d, 1 - d^(i/n) is pruned after round i.
    """
    density: float = final_density ** (number / rounds)
    return (1.0 - density) / (1.0 - final_density)


def climbed(progress: float, stairs: int) -> int:
    """Return how many of `stairs` equal parts of a run, 0..1, are over."""
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is a fraction from 0 to 1, found {progress}")
    # A hair more than the product, since 0.29 * 100 is 28.999…
    return min(stairs, math.floor(progress * stairs + _HAIR))
