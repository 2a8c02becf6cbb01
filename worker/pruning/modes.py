"""Put a model into evaluation or training for a while, and every module back into its own mode afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Evaluate inside, or train; afterwards every module is in the mode that it was in before.

    Modules of one model may differ: a frozen BatchNorm evaluates while the rest trains.
    """
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
