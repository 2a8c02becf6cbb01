"""Keep a model's buffers, such as the statistics of BatchNorm, while it is run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Change buffers as you like inside; afterwards each is the tensor that it was, with its values.

    Those that were made by `expand` are left out: nothing can be written to them in place.
    """
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not _is_expanded(buffer)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                buffer.copy_(saved)
                module._buffers[name] = buffer


def _is_expanded(buffer: Tensor) -> bool:
    if buffer.layout != torch.strided:
        return False
    return any(size > 1 and stride == 0 for size, stride in zip(buffer.shape, buffer.stride(), strict=True))
