"""The precision of a training's forward passes: float32, or bfloat16 where a product allows it."""

from contextlib import AbstractContextManager, nullcontext

import torch

from app.core.spec import Finetune


def autocast(settings: Finetune, device: torch.device) -> AbstractContextManager[object]:
    """Run products and convolutions in the precision that was asked for; weights and updates stay float32.

    bfloat16 has the range of float32, so the loss needs no scaling; it is itself computed in float32.
    """
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
