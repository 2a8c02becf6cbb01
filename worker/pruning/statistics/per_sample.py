"""Means over samples of what their own gradients are: E[g], E[|g|], E[g²].

Many samples are differentiated at once (torch.func.vmap) where a copy of all gradients for each fits into
memory: a small network spends most of a pass on a single sample on calling its layers. Where too few fit,
and where a model does what cannot be vectorised (a branch on what it computes, say), samples pass one by one,
which every model can do.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.pruning.statistics.calibration import Batch, Inputs, Targets, run
from worker.pruning.statistics.differentiation import (
    Differentiation,
    Tensors,
    differentiate,
    divide,
    make_leaves,
    zeros_of,
)
from worker.pruning.statistics.layer import Statistic

_log = logging.getLogger(__name__)
_MEMORY = 2**28
# With fewer, what vectorising costs is more than it saves.
_FEWEST = 8


_POWERS: Mapping[Statistic, Callable[[Tensor], Tensor]] = {
    "gradient": lambda gradient: gradient,
    "absolute_gradient": torch.abs,
    "squared_gradient": torch.square,
}


def gather_per_sample(of: Differentiation, wanted: Collection[Statistic]) -> dict[Statistic, Tensors]:
    """Return those `wanted` of the means of g, |g| and g² over all samples, by parameter name, in float32.

    All come from one pass.
    """
    leaves, weights = make_leaves(of.model, of.names)
    totals = {statistic: zeros_of(leaves) for statistic in _POWERS if statistic in wanted}
    for gradients in _gradients(of, leaves, weights):
        for name, gradient in gradients.items():
            # In bf16, 1,000 additions of 0.001 end at 0.5; in fp16, 1e-4 squared is zero.
            exact = gradient.float()
            for statistic, total in totals.items():
                total[name] += _POWERS[statistic](exact).sum(0)
    return {statistic: divide(total, of.samples) for statistic, total in totals.items()}


def _gradients(of: Differentiation, leaves: Tensors, weights: Tensors) -> Iterator[Tensors]:
    """Yield the gradients of some samples, [samples, *weight], until all had their turn."""
    at_once = _MEMORY // max(1, sum(4 * leaf.numel() for leaf in leaves.values()))
    if at_once < _FEWEST:
        at_once = 1
    for batch in of.batches:
        for chunk in batch.chunks(at_once):
            found = _try_all(of, chunk, leaves, weights) if at_once > 1 else None
            if found is not None:
                yield found
                continue
            at_once = 1
            for sample in chunk.chunks(1):
                gradients = differentiate(of, sample, leaves, weights)
                yield {name: gradient[None] for name, gradient in gradients.items()}


def _try_all(of: Differentiation, chunk: Batch, leaves: Tensors, weights: Tensors) -> Tensors | None:
    try:
        return _of_all(of, chunk, leaves, weights)
    except Exception as error:  # what the model cannot do with a single sample either is raised there
        _log.info("samples pass one by one", extra={"reason": str(error)[:200]})
        return None


def _of_all(of: Differentiation, chunk: Batch, leaves: Tensors, weights: Tensors) -> Tensors:
    def loss(values: dict[int, Tensor], inputs: Inputs, targets: Targets) -> Tensor:
        # A leaf that stands under several names is one value.
        placed = {name: values.get(id(tensor), tensor) for name, tensor in weights.items()}
        return of.loss(run(of.model, Batch(inputs, targets, 1), placed), targets)

    values = {id(leaf): leaf.detach() for leaf in leaves.values()}
    ones = chunk.apart()
    # The fused attention kernels have no vectorised derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        found = vmap(grad(loss), in_dims=(None, 0, 0))(values, ones.inputs, ones.targets)
    gradients = cast(dict[int, Tensor], found)
    return {name: gradients[id(leaf)] for name, leaf in leaves.items()}
