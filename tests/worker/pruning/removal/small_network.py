"""A small network with residual sums, data for it, and what to ask of it."""

from typing import Any

import torch
from torch import nn

from tests.worker.pruning.removal.drawing import draw_weights
from worker.models.registry import build

GENERATOR = torch.Generator().manual_seed(4)
DATA = [(torch.randn(8, 1, 8, 8, generator=GENERATOR), torch.arange(8) % 10) for _ in range(2)]
MACS = {"metric": "macs", "value": 200_000}


def network() -> nn.Module:
    module = build({"name": "resnet8x8", "params": {}}).module
    draw_weights(module)
    return module


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def structure(**given: Any) -> dict[str, Any]:  # Any: JSON
    return {"target": {"metric": "parameters", "value": 40_000}, **given}
