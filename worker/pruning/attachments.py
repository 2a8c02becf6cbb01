"""The optimizers that a pruner goes along with, by hooks around their steps."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

Optimizer = torch.optim.Optimizer
StepHook = Callable[[Optimizer], None]
Arguments = tuple[Any, ...]  # Any: what step() was called with
Options = dict[str, Any]  # Any: the same


class _Attached(NamedTuple):
    before: StepHook
    after: StepHook
    handles: tuple[RemovableHandle, ...]


class Attachments:
    """The optimizers added and their hooks; it knows nothing of who added them, so that nobody is in a cycle.

    A pruner that was in one would keep its model in memory until the next garbage collection.
    """

    def __init__(self) -> None:
        self._attached: dict[Optimizer, _Attached] = {}
        self._steps: dict[Optimizer, Tensor | None] = {}
        self._begun: set[Optimizer] = set()

    def __iter__(self) -> Iterator[Optimizer]:
        return iter(tuple(self._attached))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Attachments":  # Any: whatever is copied along
        """Hook the copies of the optimizers, which come without hooks, to the copy of who added them."""
        memo[id(self)] = copied = Attachments()
        for optimizer, attached in self._attached.items():
            before, after = deepcopy(attached.before, memo), deepcopy(attached.after, memo)
            copied.add(deepcopy(optimizer, memo), before, after)
        return copied

    @property
    def lack_a_step(self) -> bool:
        """True when an optimizer has moved nothing since `forget_steps`, as when a GradScaler skips."""
        return any(
            optimizer not in self._steps or _is_set(self._steps[optimizer]) for optimizer in self._attached
        )

    def forget_steps(self) -> None:
        """Count as having stepped only those that do so from now on."""
        self._steps.clear()
        self._begun.clear()

    def add(self, optimizer: Optimizer, before: StepHook, after: StepHook) -> None:
        """Call `before`, once there are gradients, and `after` around every step of an optimizer.

        Once, however often it is added. `before` is not called in a step that is to move nothing.
        """
        optimizer = _innermost(optimizer)
        if optimizer in self._attached:
            return

        def before_step(
            stepping: Optimizer, args: Arguments, kwargs: Options
        ) -> tuple[Arguments, Options] | None:
            # torch calls this once more where a class's step calls that of the class it is made from.
            if stepping in self._begun or _is_set(_found_inf(stepping)):
                return None
            self._begun.add(stepping)
            if not any(callable(value) for value in (*args, *kwargs.values())):
                before(stepping)
                return None
            # A closure makes the gradients inside of the step, so what reads them has to come behind it.
            wrap = partial(_followed_by, then=partial(before, stepping))
            return tuple(map(wrap, args)), {name: wrap(value) for name, value in kwargs.items()}

        def after_step(stepping: Optimizer, args: Arguments, kwargs: Options) -> None:
            self._begun.discard(stepping)
            after(stepping)
            self._steps[stepping] = _found_inf(stepping)

        handles = (
            optimizer.register_step_pre_hook(before_step),
            optimizer.register_step_post_hook(after_step),
        )
        self._attached[optimizer] = _Attached(before, after, handles)

    def remove(self, optimizer: Optimizer) -> None:
        """Leave an optimizer alone from now on."""
        optimizer = _innermost(optimizer)
        self._steps.pop(optimizer, None)
        self._begun.discard(optimizer)
        attached = self._attached.pop(optimizer, None)
        for handle in attached.handles if attached is not None else ():
            handle.remove()


def find_gradient_scale(optimizer: Optimizer) -> Tensor | None:
    """Return by how much the gradients of a step are too large, a scalar; None where they are as they should.

    A GradScaler leaves it to fused optimizers to divide by it, inside of their step.
    """
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    return scale


def _found_inf(optimizer: Optimizer) -> Tensor | None:
    """Return what a GradScaler tells a fused optimizer, whose step it always calls: over 0 to skip it."""
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found


def _is_set(found_inf: Tensor | None) -> bool:
    return found_inf is not None and bool(found_inf > 0)


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
