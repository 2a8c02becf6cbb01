"""The part of a training run in which a gradual schedule prunes, and how often."""

import math
from collections.abc import Callable
from typing import Annotated, Protocol, TypeVar, runtime_checkable

from pydantic import Field

_HAIR = 1e-9

_Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
StartFraction = Annotated[
    _Fraction, Field(description="When pruning begins, as a share of the time there is to prune in.")
]
EndFraction = Annotated[_Fraction, Field(description="When the whole target is pruned, as the same share.")]
IntervalFraction = Annotated[
    _Fraction, Field(description="How often there is a pruning, as the same share; 0 is twenty times.")
]
InitialFraction = Annotated[_Fraction, Field(description="How much of the target is pruned at the start.")]


@runtime_checkable
class Window(Protocol):
    """From `start_fraction` to `end_fraction` of the run, a pruning every `interval_fraction` of it.

    `initial_fraction` of the target is pruned at the start. An interval of 0 prunes at every update by hand,
    and at as many steps of a run as its plan of rounds has.
    """

    @property
    def start_fraction(self) -> float: ...
    @property
    def end_fraction(self) -> float: ...
    @property
    def interval_fraction(self) -> float: ...
    @property
    def initial_fraction(self) -> float: ...


W = TypeVar("W", bound=Window)


def check_window(window: W) -> W:
    """Refuse a window that ends before it starts."""
    if window.start_fraction >= window.end_fraction:
        raise ValueError(f"start_fraction {window.start_fraction} is not before {window.end_fraction}")
    return window


def rise(window: Window, progress: float, *, curve: Callable[[float], float]) -> float:
    """Return the fraction of the target due at a progress of 0..1: 0 before the window, 1 from its end on.

    `curve` says how far the rise has come at a fraction of the window: 0 at 0, 1 at 1, never falling.
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is a fraction from 0 to 1, found {progress}")
    if progress >= window.end_fraction:
        return 1.0
    if progress < window.start_fraction:
        return 0.0
    elapsed = progress - window.start_fraction
    if window.interval_fraction > _HAIR:
        # A hair more than the quotient, since 0.3 / 0.1 is 2.999…
        elapsed = math.floor(elapsed / window.interval_fraction + _HAIR) * window.interval_fraction
    risen = curve(min(1.0, elapsed / (window.end_fraction - window.start_fraction)))
    return min(1.0, window.initial_fraction + (1.0 - window.initial_fraction) * risen)
