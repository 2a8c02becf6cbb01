"""First and second derivatives of the loss, gathered over calibration batches in float32.

Cost, in forward-and-backward passes: `gradient` one a batch; the per-sample ones (`absolute_gradient`,
`squared_gradient`) one a sample, since batches of one fit every model, where a vectorised map would need
memory for a copy of all gradients per sample; `hessian_gradient` one and a double one a batch;
`hessian_diagonal` a double one a batch and probe.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.pruning.statistics.calibration import Batch, Loss, run
from worker.pruning.statistics.layer import Statistic
from worker.pruning.statistics.modules import identity, parameters_by_name
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

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Differentiation:
    """Whose derivatives are taken: the loss of a model over batches, in the weights named `names`."""

    model: nn.Module
    names: Sequence[str]
    batches: Sequence[Batch]
    loss: Loss

    @property
    def samples(self) -> int:
        return sum(batch.size for batch in self.batches)


def gather_gradients(
    of: Differentiation, wanted: Collection[Statistic], *, seed: int, probes: int
) -> dict[Statistic, Tensors]:
    """Gather the wanted derivatives by statistic and parameter name; the model's own `.grad` is not used."""
    found: dict[Statistic, Tensors] = {}
    if _PER_SAMPLE & set(wanted):
        found |= _per_sample(of)
    elif {"gradient", "connection_total", "hessian_gradient"} & set(wanted):
        found["gradient"] = _mean_gradient(of)
    if "connection_total" in wanted:
        found["connection_total"] = _connection_total(of, found["gradient"])
    if "hessian_gradient" in wanted:
        found["hessian_gradient"] = _hessian_times(of, found["gradient"])
    if "hessian_diagonal" in wanted:
        found["hessian_diagonal"] = _hutchinson(of, seed=seed, probes=probes)
    return {statistic: tensors for statistic, tensors in found.items() if statistic in wanted}


def _per_sample(of: Differentiation) -> dict[Statistic, Tensors]:
    # g, |g| and g² come from one pass; three accumulators cost less than a second pass would.
    leaves, weights = _leaves(of.model, of.names)
    first, absolute, squared = (_zeros(leaves) for _ in range(3))
    for batch in of.batches:
        for index in range(batch.size):
            gradients = _gradients(of, batch.sample(index), leaves, weights)
            for name, gradient in gradients.items():
                # In bf16, 1,000 additions of 0.001 end at 0.5; in fp16, 1e-4 squared is zero.
                exact = gradient.float()
                first[name] += exact
                absolute[name] += exact.abs()
                squared[name].addcmul_(exact, exact)
    return {
        "gradient": _divided(first, of.samples),
        "absolute_gradient": _divided(absolute, of.samples),
        "squared_gradient": _divided(squared, of.samples),
    }


def _mean_gradient(of: Differentiation) -> Tensors:
    leaves, weights = _leaves(of.model, of.names)
    total = _zeros(leaves)
    for batch in of.batches:
        for name, gradient in _gradients(of, batch, leaves, weights).items():
            total[name].add_(gradient.float(), alpha=batch.size)
    return _divided(total, of.samples)


def _connection_total(of: Differentiation, gradient: Tensors) -> Tensors:
    parameters = parameters_by_name(of.model)
    total = sum(
        ((parameters[name].detach().float() * gradient[name]).abs().sum(dtype=torch.float64).cpu())
        for name in sorted(gradient)
    )
    return {name: torch.as_tensor(total, device=gradient[name].device) for name in gradient}


def _hutchinson(of: Differentiation, *, seed: int, probes: int) -> Tensors:
    """Estimate diag H as the mean of z ⊙ Hz over random signs z (Bekas et al. 2007, equation 3)."""
    leaves, _ = _leaves(of.model, of.names)
    total = _zeros(leaves)
    for probe in range(probes):
        signs = {name: _signs(leaf, seed, name, probe) for name, leaf in leaves.items()}
        for name, product in _hessian_times(of, signs).items():
            total[name].addcmul_(signs[name], product)
    return _divided(total, probes)


def _signs(like: Tensor, seed: int, name: str, probe: int) -> Tensor:
    generator = generator_for(seed, "hutchinson", name, probe)
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.float32) * 2 - 1
    return signs.to(like.device)


def _hessian_times(of: Differentiation, vectors: Mapping[str, Tensor]) -> Tensors:
    """Multiply the Hessian of the mean loss by one vector, given and returned by parameter name."""
    leaves, weights = _leaves(of.model, of.names)
    total = _zeros(leaves)
    for batch in of.batches:
        # The fused attention kernels have no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            gradients = _gradients(of, batch, leaves, weights, create_graph=True)
            product = torch.stack([(gradients[n].float() * vectors[n]).sum() for n in leaves]).sum()
            if not product.requires_grad:  # a loss linear in every weight
                continue
            columns = torch.autograd.grad(
                product, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        for name, column in zip(leaves, columns, strict=True):
            total[name].add_(column.float(), alpha=batch.size)
    return _divided(total, of.samples)


def _gradients(
    of: Differentiation, batch: Batch, leaves: Tensors, weights: Tensors, *, create_graph: bool = False
) -> Tensors:
    with torch.enable_grad():
        loss = of.loss(run(of.model, batch, weights), batch.targets)
        # What the loss does not depend on has a gradient of zero, be it one weight or all of them.
        if not loss.requires_grad:
            return {name: torch.zeros_like(leaf.detach()) for name, leaf in leaves.items()}
        gradients = torch.autograd.grad(
            loss,
            list(leaves.values()),
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    return dict(zip(leaves, gradients, strict=True))


def _leaves(model: nn.Module, names: Sequence[str]) -> tuple[Tensors, Tensors]:
    """Return fresh leaves over the named weights, and all parameters with the leaves in their places.

    Differentiating in these leaves the parameters' own `.grad` and `requires_grad` alone, and a weight
    that is tied under several names is one leaf.
    """
    parameters = parameters_by_name(model)
    by_identity = {identity(parameters[name]): parameters[name].detach() for name in names}
    for leaf in by_identity.values():
        leaf.requires_grad_()
    leaves = {name: by_identity[identity(parameters[name])] for name in names}
    weights = {
        name: by_identity.get(identity(parameter), parameter.detach())
        for name, parameter in model.named_parameters()
    }
    return leaves, weights


def _zeros(leaves: Tensors) -> Tensors:
    return {name: torch.zeros_like(leaf, dtype=torch.float32) for name, leaf in leaves.items()}


def _divided(tensors: Tensors, by: int) -> Tensors:
    return {name: tensor.div_(by) for name, tensor in tensors.items()}
