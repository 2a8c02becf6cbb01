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
    """The optimizers added and their hooks; it knows nothing of who added them, so that nobody is in a cycle.

    A pruner that was in one would keep its model in memory until the next garbage collection.
    """

    def __init__(self) -> None:
        self._handles: dict[Optimizer, tuple[RemovableHandle, ...]] = {}

    def __iter__(self) -> Iterator[Optimizer]:
        return iter(tuple(self._handles))

    def add(self, optimizer: Optimizer, before: StepHook, after: StepHook) -> None:
        """Call `before`, once there are gradients, and `after` around every step of an optimizer.

        Once, however often it is added.
        """
        optimizer = _innermost(optimizer)
        if optimizer in self._handles:
            return

        def before_step(
            stepping: Optimizer, args: Arguments, kwargs: Options
        ) -> tuple[Arguments, Options] | None:
            if not any(callable(value) for value in (*args, *kwargs.values())):
                before(stepping)
                return None
            # A closure makes the gradients inside of the step, so what reads them has to come behind it.
            wrap = partial(_followed_by, then=partial(before, stepping))
            return tuple(map(wrap, args)), {name: wrap(value) for name, value in kwargs.items()}

        def after_step(stepping: Optimizer, args: Arguments, kwargs: Options) -> None:
            after(stepping)

        self._handles[optimizer] = (
            optimizer.register_step_pre_hook(before_step),
            optimizer.register_step_post_hook(after_step),
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
