"""Make the processes of distributed training agree: what the first has chosen, all take."""

from collections.abc import Mapping

import torch
from torch import Tensor, distributed


def agree(tensor: Tensor) -> Tensor:
    """Return what the process of rank 0 gave, of the same shape and dtype; alone, return the tensor itself.

    Every process has to call it, in the same order, or those that do wait for ever. Scores that read data
    differ between processes that have data of their own, and one mask of another process would set
    weights to zero there that the others go on to train.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return tensor
    shared = tensor.detach().clone(memory_format=torch.contiguous_format)
    # As bytes, since not every backend sends every dtype.
    distributed.broadcast(shared.view(torch.uint8), src=0)
    return shared


def agree_on_all(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Do the same for each tensor, in the order of the mapping."""
    return {name: agree(tensor) for name, tensor in tensors.items()}
