"""When and how much the schedules that move kept weights about do so."""

import math
from typing import Annotated

from pydantic import Field

IntervalFraction = Annotated[
    float, Field(gt=0.0, le=1.0, description="An exchange every so often, as a share of the run.")
]
StopFraction = Annotated[
    float, Field(gt=0.0, le=1.0, description="No exchange from here on, as a share of the run.")
]


def check_progress(progress: float) -> None:
    """Refuse what is no fraction."""
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is a fraction from 0 to 1, found {progress}")


def fade(progress: float, stop_fraction: float) -> float:
    """Return the cosine from 1 at the start to 0 at the stop: (1 + cos(t π / T)) / 2."""
    check_progress(progress)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress / stop_fraction)))
