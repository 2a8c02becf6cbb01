"""The optimizers that a pruner goes along with, by hooks around their steps."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

Optimizer = torch.optim.Optimizer
StepHook = Callable[[Optimizer], None]
Arguments = tuple[Any, ...]  # Any: what step() was called with
Options = dict[str, Any]  # Any: the same


class Attachments:
    """Calls `before`, once there are gradients, and `after` around every step of the optimizers added."""

    def __init__(self, before: StepHook, after: StepHook) -> None:
        self._before = before
        self._after = after
        self._handles: dict[Optimizer, tuple[RemovableHandle, ...]] = {}

    def __iter__(self) -> Iterator[Optimizer]:
        return iter(tuple(self._handles))

    def add(self, optimizer: Optimizer) -> None:
        """Go along with an optimizer; once, however often it is added."""
        optimizer = _innermost(optimizer)
        if optimizer in self._handles:
            return

        def before(stepping: Optimizer, args: Arguments, kwargs: Options) -> tuple[Arguments, Options] | None:
            if not any(callable(value) for value in (*args, *kwargs.values())):
                self._before(stepping)
                return None
            # A closure makes the gradients inside of the step, so what reads them has to come behind it.
            wrap = partial(_followed_by, then=partial(self._before, stepping))
            return tuple(map(wrap, args)), {name: wrap(value) for name, value in kwargs.items()}

        def after(stepping: Optimizer, args: Arguments, kwargs: Options) -> None:
            self._after(stepping)

        self._handles[optimizer] = (
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        )

    def remove(self, optimizer: Optimizer) -> None:
        """Leave an optimizer alone from now on."""
        for handle in self._handles.pop(_innermost(optimizer), ()):
            handle.remove()


def _innermost(optimizer: Optimizer) -> Optimizer:
    """Look inside of what wraps an optimizer, as accelerate does, without hooks of its own."""
    inner = getattr(optimizer, "optimizer", None)
    return _innermost(inner) if isinstance(inner, Optimizer) else optimizer


def _followed_by(value: object, then: Callable[[], None]) -> object:
    if not callable(value):
        return value

    def closure() -> object:
        result = value()
        then()
        return result

    return closure
