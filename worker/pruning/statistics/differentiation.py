"""What derivatives are taken of, and one pass forward and back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.pruning.statistics.calibration import Batch, Loss, run
from worker.pruning.statistics.modules import identity, parameters_by_name

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


def differentiate(
    of: Differentiation, batch: Batch, leaves: Tensors, weights: Tensors, *, create_graph: bool = False
) -> Tensors:
    """Return the gradient of the loss of one batch in each leaf, by name, as make_leaves returned them."""
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


def make_leaves(model: nn.Module, names: Sequence[str]) -> tuple[Tensors, Tensors]:
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


def zeros_of(leaves: Tensors) -> Tensors:
    """Return an accumulator in float32 for each leaf."""
    return {name: torch.zeros_like(leaf, dtype=torch.float32) for name, leaf in leaves.items()}


def divide(tensors: Tensors, by: int) -> Tensors:
    """Divide in place."""
    return {name: tensor.div_(by) for name, tensor in tensors.items()}
