"""The faults: each hurts one thing and says what it hurt, or None when there was nothing to hurt."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.site import Site

Inject = Callable[[Site, random.Random], str | None]
BOTH = ("scaled", "embedded")


@dataclass(frozen=True)
class Fault:
    """`numbers` are those of the fault list in docs/faults.md; `weight` is how often it is drawn."""

    name: str
    numbers: tuple[str, ...]
    weight: int
    modes: tuple[str, ...]
    inject: Inject


FAULTS: dict[str, Fault] = {}


def fault(*numbers: str, weight: int = 1, modes: tuple[str, ...] = BOTH) -> Callable[[Inject], Inject]:
    """Register a function as a fault under its own name."""

    def register(inject: Inject) -> Inject:
        FAULTS[inject.__name__] = Fault(inject.__name__, numbers, weight, modes, inject)
        return inject

    return register
