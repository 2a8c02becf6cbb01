"""Clip the gradients of a model whose pruned weights do not move."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from worker.pruning.masks import zero_pruned


@torch.no_grad()
def clip_gradients(module: nn.Module, masks: Mapping[str, Tensor], *, limit: float) -> None:
    """Scale all gradients so that those of kept weights have a norm of at most `limit`.

    Gradients of pruned weights move nothing. In the norm they would shorten every step: to a hundredth where
    98 % are pruned. They are scaled as the others are, since what learns scores or regrows reads them.
    """
    mask_of = {id(module.get_parameter(name)): mask for name, mask in masks.items()}
    norms: list[Tensor] = []
    for parameter in module.parameters():
        gradient, mask = parameter.grad, mask_of.get(id(parameter))
        if gradient is None:
            continue
        if mask is not None:
            gradient = gradient.clone()
            zero_pruned(gradient, mask)
        norms.append(torch.linalg.vector_norm(gradient))
    clip_grads_with_norm_(module.parameters(), limit, get_total_norm(norms))
