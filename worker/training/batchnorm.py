"""Measure the statistics of BatchNorm anew: pruning changes what a layer puts out, and they lag behind."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from worker.models.inputs import Inputs, compute_logits


@torch.no_grad()
def refresh_batchnorm(module: nn.Module, batches: Iterable[Inputs]) -> None:
    """Replace every running mean and variance by their plain mean over some batches, on the module's device.

    All else is left as it is, and the module in evaluation mode. A module without BatchNorm is not run.
    """
    norms = [norm for _, norm in _find_norms(module)]
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


def refresh_if_better(module: nn.Module, batches: Iterable[Inputs], loss: Callable[[], float]) -> bool:
    """Refresh the statistics, unless the loss is no lower for it; returns whether they were.

    Those of a training may serve better than any that plain samples give, before anything is cut.
    """
    before = _copy_statistics(module)
    if not before:
        return False
    loss_before = loss()
    refresh_batchnorm(module, batches)
    if loss() < loss_before:
        return True
    module.load_state_dict(before, strict=False)
    return False


def _copy_statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in read_statistics(module).items()}


def read_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Return the running statistics by their names in the module's state; none without BatchNorm."""
    return {
        f"{name}.{own}" if name else own: tensor
        for name, norm in _find_norms(module)
        for own, tensor in norm.named_buffers(recurse=False)
    }


def _find_norms(module: nn.Module) -> list[tuple[str, _BatchNorm]]:
    return [(n, m) for n, m in module.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _set_up(norm: _BatchNorm, *, momentum: float | None, is_training: bool) -> None:
    norm.momentum = momentum
    norm.train(is_training)
