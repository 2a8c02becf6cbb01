"""Keep pruned weights, and what optimizers remember of them, at zero."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from worker.pruning.attachments import Optimizer
from worker.pruning.layers import Layer
from worker.pruning.masks import MaskSet, zero_pruned

# What is kept of each single weight by torch.optim's optimizers, and by schedule-free ones (z).
_OF_SINGLE_WEIGHTS = frozenset(
    (
        "acc_delta", "ax", "exp_avg", "exp_avg_sq", "exp_inf", "grad_avg", "max_exp_avg_sq",
        "momentum_buffer", "prev", "square_avg", "step_size", "sum", "variance", "z",
    )
)  # fmt: skip


class Holder:
    """The masks in force, by layer name, each on its weight's device; a layer without one is dense.

    `parameters` are all parameter objects over a layer's storage, which may be several for tied weights.
    """

    def __init__(self, layers: Sequence[Layer], parameters: Mapping[str, Sequence[nn.Parameter]]) -> None:
        self._masks: Mapping[str, Tensor] = {}
        self._layers = layers
        self._parameters = parameters

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The masks in force; a model may have moved to another device since they were made."""
        moved = {
            layer.name: mask.to(layer.weight.device)
            for layer in self._layers
            if (mask := self._masks.get(layer.name)) is not None and mask.device != layer.weight.device
        }
        if moved:
            self._masks = {**self._masks, **moved}
        return self._masks

    @masks.setter
    def masks(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = masks

    def all_masks(self) -> MaskSet:
        """Return a mask for every layer, all True where there is none."""
        ones = {
            layer.name: torch.ones_like(layer.weight, dtype=torch.bool)
            for layer in self._layers
            if layer.name not in self._masks
        }
        return MaskSet({**ones, **self.masks})

    def layers_of(self, optimizer: Optimizer) -> list[Layer]:
        """Return the layers that an optimizer moves."""
        moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [layer for layer in self._layers if moved.intersection(map(id, self._parameters[layer.name]))]

    @torch.no_grad()
    def apply(self, optimizers: Iterable[Optimizer] = ()) -> None:
        """Zero all pruned weights, and their state in some optimizers."""
        self._zero_weights(self._layers)
        for optimizer in optimizers:
            self._zero_state(optimizer, self._layers)

    @torch.no_grad()
    def hold(self, optimizer: Optimizer) -> None:
        """Zero the pruned weights that an optimizer moved, and their state in it."""
        layers = self.layers_of(optimizer)
        self._zero_weights(layers)
        self._zero_state(optimizer, layers)

    @torch.no_grad()
    def zero_gradients(self, layers: Sequence[Layer]) -> None:
        """Take the gradients off pruned weights.

        They would move nothing that stays, but a step's length, where an optimizer sets that for many weights
        together (LBFGS, LAMB, Adafactor), would count them.
        """
        for layer, mask in self._masked(layers):
            for parameter in self._parameters[layer.name]:
                # What a sparse gradient moves is zeroed after the step.
                if parameter.grad is not None and not parameter.grad.is_sparse:
                    zero_pruned(parameter.grad, mask)

    def _zero_weights(self, layers: Sequence[Layer]) -> None:
        for layer, mask in self._masked(layers):
            zero_pruned(layer.weight, mask)

    def _zero_state(self, optimizer: Optimizer, layers: Sequence[Layer]) -> None:
        for layer, mask in self._masked(layers):
            for parameter in self._parameters[layer.name]:
                for name, value in optimizer.state.get(parameter, {}).items():
                    if _is_of_single_weights(name, value, parameter.shape):
                        zero_pruned(value, mask)

    def _masked(self, layers: Sequence[Layer]) -> Iterator[tuple[Layer, Tensor]]:
        masks = self.masks
        for layer in layers:
            if layer.name in masks:
                yield layer, masks[layer.name]


def _is_of_single_weights(name: object, value: object, shape: torch.Size) -> TypeGuard[Tensor]:
    """Tell whether what an optimizer keeps of a parameter of a shape is a number for each of its weights.

    Quantized memory, in integers or behind a class of its own, is not: there a zero is a code.
    """
    if type(value) is not Tensor or not value.is_floating_point() or value.shape != shape:
        return False
    # What is kept of the rows of a square matrix (Shampoo) has its shape too.
    is_square = len(shape) == 2 and shape[0] == shape[1]
    return not is_square or name in _OF_SINGLE_WEIGHTS
