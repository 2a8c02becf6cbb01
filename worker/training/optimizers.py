"""Make the optimizer of a fine-tune, set its learning rate, and carry its state over a restart."""

from typing import Any

import torch
from torch import nn

from app.core.finetune import Finetune


def make_optimizer(module: nn.Module, settings: Finetune) -> torch.optim.Optimizer:
    """Make SGD with momentum, or AdamW; biases and norm weights are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    spared = [p for p in trained if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    is_fused = all(map(_may_be_fused, trained))
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=is_fused)
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=is_fused,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def dump_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:  # Any: what optimizers keep, by name
    """Return what the optimizer remembers of each parameter, by its number; settings are not in it."""
    return {str(number): dict(state) for number, state in optimizer.state_dict()["state"].items()}


def load_state(
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],  # Any: as dump_state
) -> None:
    """Put back what `dump_state` returned."""
    numbered = {int(number): values for number, values in state.items()}
    optimizer.load_state_dict({"state": numbered, "param_groups": optimizer.state_dict()["param_groups"]})


def _may_be_fused(parameter: nn.Parameter) -> bool:
    """Return whether one pass over memory may update a parameter: on a CPU a tenth of the time for AdamW.

    torch's CPU kernel goes through memory in its order, whatever the strides of a parameter and of its
    gradient; contiguous parameters have contiguous gradients.
    """
    return parameter.device.type in ("cpu", "cuda") and parameter.is_contiguous()
