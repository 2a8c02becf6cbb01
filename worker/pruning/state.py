"""A pruner's state as tensors and plain JSON, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.pruning.errors import MaskMismatch
from worker.pruning.history import Reached, as_json, from_json
from worker.pruning.layers import Layer
from worker.pruning.masks import pack, unpack
from worker.pruning.measured import Measured
from worker.pruning.recipe import Recipe


@dataclass
class Progress:
    """How far a pruner has come: steps of the run or the cycle, planned rounds, cycles, the target."""

    steps_done: int = 0
    rounds_done: int = 0
    cycles_done: int = 0
    fraction: float = 0.0
    history: tuple[Reached, ...] = ()

    def add(self, reached: Reached) -> None:
        """Take note of a round."""
        self.fraction = reached.round.fraction
        self.history = (*self.history, reached)


def dump_state(
    recipe: Recipe, masks: Mapping[str, Tensor], progress: Progress, measured: Measured
) -> dict[str, Any]:  # Any: plain JSON and tensors
    """Return the recipe, the masks (bit-packed), how far the pruner has come, and the damage measured."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "masks": {
            name: torch.frombuffer(bytearray(pack(mask)), dtype=torch.uint8) for name, mask in masks.items()
        },
        "progress": {
            "steps_done": progress.steps_done,
            "rounds_done": progress.rounds_done,
            "cycles_done": progress.cycles_done,
            "fraction": progress.fraction,
        },
        "history": as_json(progress.history),
        # Measured once, before the first round: on the pruned model it would be other damage.
        "damage": {name: [list(rise) for rise in rises.items()] for name, rises in measured.damage.items()},
    }


def read_state(
    state: Mapping[str, Any],  # Any: what a pruner's state_dict returned
    recipe: Recipe,
    layers: Sequence[Layer],
    *,
    steps: int | None,
) -> tuple[dict[str, Tensor], Progress]:
    """Return masks by name, on their layers' devices, and the progress; raises MaskMismatch."""
    if state["recipe"] != recipe.model_dump(mode="json"):
        raise MaskMismatch("the state was saved under another recipe")
    if state["steps"] != steps:
        raise MaskMismatch(f"the state was saved in a run of {state['steps']} steps, this one has {steps}")
    known = {layer.name: layer for layer in layers}
    if not set(state["masks"]) <= set(known):
        unknown = ", ".join(sorted(set(state["masks"]) - set(known)))
        raise MaskMismatch(f"the state holds masks of layers that are not pruned here: {unknown}")
    masks = {
        name: unpack(packed.cpu().numpy().tobytes(), known[name].shape).to(known[name].weight.device)
        for name, packed in state["masks"].items()
    }
    return masks, Progress(**state["progress"], history=from_json(state["history"]))


def read_damage(state: Mapping[str, Any]) -> dict[str, dict[int, float]]:  # Any: the same
    """Return the damage measured, as `Measured` holds it; none of a state that was saved without it."""
    return {name: dict(rises) for name, rises in state.get("damage", {}).items()}
