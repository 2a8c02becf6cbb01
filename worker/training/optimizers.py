"""Make the optimizer of a fine-tune and set its learning rate step by step."""

import math

import torch
from torch import nn

from app.core.spec import Finetune

_MOMENTUM = 0.9


def make_optimizer(module: nn.Module, settings: Finetune) -> torch.optim.Optimizer:
    """Make SGD with Nesterov momentum, or AdamW; biases and norm weights are not decayed."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    spared = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=_MOMENTUM, nesterov=True)


def compute_rate(step: int, total: int, settings: Finetune) -> float:
    """Return the learning rate of `step` (from 0): a linear warm-up, then a half cosine down to zero.

    Loshchilov and Hutter 2017 (SGDR), equation 5, with one period.
    """
    warmup = round(settings.warmup_fraction * total)
    if step < warmup:
        return settings.learning_rate * ((step + 1) / warmup)
    done = (step - warmup) / max(1, total - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
