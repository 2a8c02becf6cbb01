"""The pruner: what a training loop holds to prune a model step by step and to keep it pruned."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worker.pruning.calculation import Calculation
from worker.pruning.errors import MaskMismatch
from worker.pruning.grouping import make_masks
from worker.pruning.layers import Layer
from worker.pruning.masks import MaskSet, pack, unpack, zero_pruned
from worker.pruning.measured import Measured
from worker.pruning.plan import make_plan
from worker.pruning.protocols import UpdatesWeights
from worker.pruning.recipe import Recipe, read_recipe
from worker.pruning.statistics.calibration import Calibration, Inputs, Loss, Targets

Data = Iterable[tuple[Inputs, Targets]]


class Pruner:
    """Prunes one model by one recipe; its masks live outside of the model, which stays a plain module.

    Call `update(progress)` to prune as far as the schedule says, and `step()` after every optimizer step.

    `data` yields batches (inputs, targets) for criteria that read gradients or activations; `loss(outputs,
    targets)` is a mean over the batch, cross-entropy by default. `seed` feeds what is random. `measured` is
    what is known about the model already.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe | Mapping[str, Any],  # Any: JSON, checked when read
        data: Data | None = None,
        loss: Loss | None = None,
        *,
        seed: int = 0,
        measured: Measured | None = None,
    ) -> None:
        self.model = model
        self.recipe = read_recipe(recipe)
        self._plan = make_plan(model, self.recipe)
        # An iterator could be read once only; every update reads the data.
        self._data = list(data) if isinstance(data, Iterator) else data
        self._loss = loss
        self.seed = seed
        self._measured = measured or Measured()
        self._optimizers: list[torch.optim.Optimizer] = []
        self._masks: dict[str, Tensor] = {}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every parameter of the model, with `why_not` where this recipe does not prune it."""
        return self._plan.layers

    @property
    def masks(self) -> MaskSet:
        """The masks in force: one for every layer that can be pruned, all True before the first update."""
        return MaskSet({layer.name: self._mask(layer) for layer in self._plan.pruned_layers})

    @torch.no_grad()
    def update(self, progress: float = 1.0, *, may_revive: bool = False) -> MaskSet:
        """Prune as far as the schedule says at a progress of 0..1 of the run; return the masks in force.

        What is pruned stays pruned unless `may_revive`. Raises PruningError, of the kind that says why.
        """
        before = {} if may_revive else self._masks
        fraction = self._plan.schedule.fraction(progress)
        calculation = Calculation(
            self.model,
            self._plan,
            self.recipe,
            before,
            Calibration(self._data, self._loss, seed=self.seed),
            self._measured,
        )
        kept = calculation.kept_groups(fraction)
        masks: dict[str, Tensor] = {}
        for unit, groups in zip(self._plan.units, kept, strict=True):
            masks.update(make_masks(self._plan.pattern, unit, groups))
        self._masks = masks
        criterion = self._plan.criterion
        if isinstance(criterion, UpdatesWeights):
            for layer in self._plan.pruned_layers:
                updated = criterion.update_weight(
                    layer.weight, masks[layer.name], calculation.statistics[layer.name]
                )
                layer.weight.copy_(updated)
        self._zero_weights()
        return self.masks

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the state of an optimizer (momentum, moments) at zero where weights are pruned."""
        self._optimizers.append(optimizer)

    @torch.no_grad()
    def step(self) -> None:
        """Set pruned weights, and what attached optimizers remember of them, to zero: after every step."""
        self._zero_weights()
        for optimizer in self._optimizers:
            for layer in self._masked_layers():
                for value in optimizer.state.get(layer.weight, {}).values():
                    if isinstance(value, Tensor) and value.shape == layer.weight.shape:
                        zero_pruned(value, self._masks[layer.name])

    def state_dict(self) -> dict[str, Any]:  # Any: plain JSON values and uint8 tensors, as torch has it
        """Return the recipe, the seed and the masks (bit-packed), to be restored by `load_state_dict`."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "masks": {
                name: torch.frombuffer(bytearray(pack(mask)), dtype=torch.uint8)
                for name, mask in self._masks.items()
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # Any: what state_dict returned
        """Restore the masks and apply them; raises MaskMismatch when they are of another recipe or model."""
        if state["recipe"] != self.recipe.model_dump(mode="json"):
            raise MaskMismatch("the state was saved under another recipe")
        layers = {layer.name: layer for layer in self._plan.pruned_layers}
        if not set(state["masks"]) <= set(layers):
            unknown = ", ".join(sorted(set(state["masks"]) - set(layers)))
            raise MaskMismatch(f"the state holds masks of layers that are not pruned here: {unknown}")
        self.seed = state["seed"]
        self._masks = {
            name: unpack(packed.numpy().tobytes(), layers[name].shape).to(layers[name].weight.device)
            for name, packed in state["masks"].items()
        }
        self._zero_weights()

    def _mask(self, layer: Layer) -> Tensor:
        mask = self._masks.get(layer.name)
        return torch.ones_like(layer.weight, dtype=torch.bool) if mask is None else mask

    def _masked_layers(self) -> list[Layer]:
        return [layer for layer in self._plan.pruned_layers if layer.name in self._masks]

    def _zero_weights(self) -> None:
        for layer in self._masked_layers():
            zero_pruned(layer.weight, self._masks[layer.name])


def prune(
    model: nn.Module,
    recipe: Recipe | Mapping[str, Any],  # Any: JSON, checked when read
    data: Data | None = None,
    loss: Loss | None = None,
    *,
    seed: int = 0,
    measured: Measured | None = None,
) -> MaskSet:
    """Prune a model in place as far as its recipe's target says; return the masks."""
    return Pruner(model, recipe, data, loss, seed=seed, measured=measured).update(1.0)
