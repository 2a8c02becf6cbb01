"""Prune a model at once, without a training to go along with."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from worker.pruning.decision import Data
from worker.pruning.masks import MaskSet
from worker.pruning.measured import Measured
from worker.pruning.pruner import Pruner
from worker.pruning.recipe import Recipe
from worker.pruning.statistics.calibration import Loss


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
    return Pruner(model, recipe, data, loss, seed=seed, measured=measured).update()
