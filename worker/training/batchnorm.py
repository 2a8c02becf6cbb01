"""Measure the statistics of BatchNorm anew: pruning changes what a layer puts out, and they lag behind."""

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from worker.models.inputs import Inputs, compute_logits


@torch.no_grad()
def refresh_batchnorm(module: nn.Module, batches: Iterable[Inputs]) -> None:
    """Replace every running mean and variance by their plain mean over some batches, on the module's device.

    All else is left as it is, and the module in evaluation mode. A module without BatchNorm is not run.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    module.eval()
    with ExitStack() as restored:
        for norm in norms:
            restored.callback(_set_up, norm, momentum=norm.momentum, is_training=False)
            norm.reset_running_stats()
            # Without a momentum torch takes the mean over all batches.
            _set_up(norm, momentum=None, is_training=True)
        for inputs in batches:
            compute_logits(module, inputs)


def _set_up(norm: _BatchNorm, *, momentum: float | None, is_training: bool) -> None:
    norm.momentum = momentum
    norm.train(is_training)
