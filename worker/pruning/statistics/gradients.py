"""First and second derivatives of the loss, gathered over calibration batches in float32.

Cost, in forward-and-backward passes: `gradient` one a batch; the per-sample ones (`absolute_gradient`,
`squared_gradient`) one a sample (see per_sample); `hessian_gradient` one and a double one a batch;
`hessian_diagonal` a double one a batch and probe.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.pruning.statistics.differentiation import (
    Differentiation,
    Tensors,
    differentiate,
    divide,
    make_leaves,
    zeros_of,
)
from worker.pruning.statistics.layer import Statistic
from worker.pruning.statistics.modules import parameters_by_name
from worker.pruning.statistics.per_sample import gather_per_sample
from worker.pruning.statistics.seeding import generator_for

GRADIENTS: frozenset[Statistic] = frozenset(
    {
        "gradient",
        "absolute_gradient",
        "squared_gradient",
        "connection_total",
        "hessian_gradient",
        "hessian_diagonal",
    }
)
_PER_SAMPLE: frozenset[Statistic] = frozenset({"absolute_gradient", "squared_gradient"})
_OF_THE_MEAN: frozenset[Statistic] = frozenset({"gradient", "connection_total", "hessian_gradient"})


def gather_gradients(
    of: Differentiation, wanted: Collection[Statistic], *, seed: int, probes: int
) -> dict[Statistic, Tensors]:
    """Gather the wanted derivatives by statistic and parameter name; the model's own `.grad` is not used."""
    found: dict[Statistic, Tensors] = {}
    needs_mean = bool(_OF_THE_MEAN & set(wanted))
    if _PER_SAMPLE & set(wanted):
        mean: set[Statistic] = {"gradient"} if needs_mean else set()
        found |= gather_per_sample(of, {*wanted, *mean})
    elif needs_mean:
        found["gradient"] = _mean_gradient(of)
    if "connection_total" in wanted:
        found["connection_total"] = _connection_total(of, found["gradient"])
    if "hessian_gradient" in wanted:
        found["hessian_gradient"] = _hessian_times(of, found["gradient"])
    if "hessian_diagonal" in wanted:
        found["hessian_diagonal"] = _hutchinson(of, seed=seed, probes=probes)
    return {statistic: tensors for statistic, tensors in found.items() if statistic in wanted}


def _mean_gradient(of: Differentiation) -> Tensors:
    leaves, weights = make_leaves(of.model, of.names)
    total = zeros_of(leaves)
    for batch in of.batches:
        for name, gradient in differentiate(of, batch, leaves, weights).items():
            total[name].add_(gradient.float(), alpha=batch.size)
    return divide(total, of.samples)


def _connection_total(of: Differentiation, gradient: Tensors) -> Tensors:
    parameters = parameters_by_name(of.model)
    total = sum(
        ((parameters[name].detach().float() * gradient[name]).abs().sum(dtype=torch.float64).cpu())
        for name in sorted(gradient)
    )
    return {name: torch.as_tensor(total, device=gradient[name].device) for name in gradient}


def _hutchinson(of: Differentiation, *, seed: int, probes: int) -> Tensors:
    """Estimate diag H as the mean of z ⊙ Hz over random signs z (Bekas et al. 2007, equation 3)."""
    leaves, _ = make_leaves(of.model, of.names)
    total = zeros_of(leaves)
    for probe in range(probes):
        signs = {name: _signs(leaf, seed, name, probe) for name, leaf in leaves.items()}
        for name, product in _hessian_times(of, signs).items():
            total[name].addcmul_(signs[name], product)
    return divide(total, probes)


def _signs(like: Tensor, seed: int, name: str, probe: int) -> Tensor:
    generator = generator_for(seed, "hutchinson", name, probe)
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.float32) * 2 - 1
    return signs.to(like.device)


def _hessian_times(of: Differentiation, vectors: Mapping[str, Tensor]) -> Tensors:
    """Multiply the Hessian of the mean loss by one vector, given and returned by parameter name."""
    leaves, weights = make_leaves(of.model, of.names)
    total = zeros_of(leaves)
    for batch in of.batches:
        # The fused attention kernels have no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            gradients = differentiate(of, batch, leaves, weights, create_graph=True)
            product = torch.stack([(gradients[n].float() * vectors[n]).sum() for n in leaves]).sum()
            if not product.requires_grad:  # a loss linear in every weight
                continue
            columns = torch.autograd.grad(
                product, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        for name, column in zip(leaves, columns, strict=True):
            total[name].add_(column.float(), alpha=batch.size)
    return divide(total, of.samples)
