"""Learn scores while a model trains, and keep the values that its pruned weights had.

The pruned weights of the module are plain zeros. Their last values, the latent weights, are kept here: the
gradient of a masked weight, which autograd computes for zeros as for any other value, moves the score of a
pruned weight by way of its latent value, and a weight that comes back has it again (Sanh et al. 2020,
arXiv:2005.07683, section 3). As a pruned weight and its gradient are zero in the optimizer's step, neither
momentum nor weight decay reaches its latent value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.masks import zero_pruned
from worker.pruning.protocols import LearnsScores, Memory


class ScoreLearner:
    """What a criterion that learns remembers of each layer, and the latent weights, by layer name."""

    def __init__(
        self,
        criterion: LearnsScores,
        layers: Sequence[Layer],
        parameters: Mapping[str, Sequence[nn.Parameter]],
    ) -> None:
        self._criterion = criterion
        self._layers = {layer.name: layer for layer in layers}
        self._parameters = parameters
        self._memory: dict[str, Memory] = {}
        self._latent: dict[str, Tensor] = {}

    @property
    def scores(self) -> Mapping[str, Tensor]:
        """The learned scores, float32 of each layer's shape; empty before the first step."""
        if not self._memory:
            return {}
        self._follow()
        # A layer without gradients, a frozen one, has learned nothing.
        return {
            name: memory["scores"] if memory else torch.zeros_like(layer.weight, dtype=torch.float32)
            for name, layer in self._layers.items()
            for memory in [self._memory.get(name)]
        }

    @torch.no_grad()
    def learn(
        self,
        layers: Sequence[Layer],
        masks: Mapping[str, Tensor],
        *,
        pressure: float,
        scale: Tensor | None = None,
    ) -> None:
        """Take in the gradients of some layers, of this step.

        They are divided by `scale`, a scalar, which a GradScaler may have left in them.
        """
        self._follow()
        for layer in layers:
            gradient = sum_gradients(self._parameters[layer.name])
            if gradient is None:
                continue
            if scale is not None:
                gradient = gradient / scale
            mask = masks.get(layer.name)
            if layer.name not in self._memory:
                self._memory[layer.name] = self._criterion.start(layer.weight.detach())
            self._criterion.learn(
                self._memory[layer.name], self._whole(layer, mask), gradient, pressure=pressure
            )

    @torch.no_grad()
    def uncover(self, masks: Mapping[str, Tensor]) -> None:
        """Give pruned weights their latent values back."""
        self._follow()
        for name, mask in masks.items():
            layer = self._layers[name]
            # By mask and not as a sum: whoever loaded other weights meanwhile gets no mixture of both.
            if name in self._latent:
                layer.weight.copy_(torch.where(mask, layer.weight, self._latent[name]))

    @torch.no_grad()
    def cover(self, masks: Mapping[str, Tensor]) -> None:
        """Take the values of pruned weights out of the model, which leaves zeros there."""
        for name, mask in masks.items():
            weight = self._layers[name].weight
            self._latent[name] = weight.detach().clone(memory_format=torch.contiguous_format)
            zero_pruned(self._latent[name], ~mask)
            zero_pruned(weight, mask)

    def forget(self) -> None:
        """Forget the scores and the latent weights."""
        self._memory = {}
        self._latent = {}

    def state_dict(self) -> dict[str, Any]:  # Any: nested tensors
        """Return copies: what is remembered, tensors by layer and name, and the latent weights by layer."""
        return {
            "memory": {
                layer: {name: tensor.clone() for name, tensor in memory.items()}
                for layer, memory in self._memory.items()
            },
            "latent": {layer: tensor.clone() for layer, tensor in self._latent.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # Any: what state_dict returned
        """Restore what `state_dict` returned."""

        def copied(layer: str, tensor: Tensor) -> Tensor:
            return tensor.to(self._layers[layer].weight.device, copy=True)

        self._memory = {
            layer: {name: copied(layer, tensor) for name, tensor in memory.items()}
            for layer, memory in state["memory"].items()
        }
        self._latent = {layer: copied(layer, tensor) for layer, tensor in state["latent"].items()}

    def _follow(self) -> None:
        """Move what is remembered of a layer to where its weight is: a model may have moved meanwhile."""
        for name, latent in self._latent.items():
            self._latent[name] = latent.to(self._layers[name].weight.device)
        for name, memory in self._memory.items():
            for key, tensor in memory.items():
                memory[key] = tensor.to(self._layers[name].weight.device)

    def _whole(self, layer: Layer, mask: Tensor | None) -> Tensor:
        latent = self._latent.get(layer.name)
        weight = layer.weight.detach()
        # Each is zero where the other is not, and a sum takes a quarter of the time of a choice by mask.
        return weight if latent is None or mask is None else weight + latent


def sum_gradients(parameters: Sequence[nn.Parameter]) -> Tensor | None:
    """Return the gradient of a weight, dense, over all parameter objects that share it; None without any."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    dense = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]
    return dense[0] if len(dense) == 1 else torch.stack(dense).sum(dim=0)
