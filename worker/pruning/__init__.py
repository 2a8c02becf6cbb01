"""Prune PyTorch models: criterion x pattern x allocation x schedule, exact to the last weight."""

from worker.pruning.masks import MaskSet
from worker.pruning.measured import Measured
from worker.pruning.pruner import Pruner, prune

__all__ = ["MaskSet", "Measured", "Pruner", "prune"]
