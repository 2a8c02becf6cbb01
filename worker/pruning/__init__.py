"""Prune PyTorch models: criterion x pattern x allocation x schedule, exact to the last weight."""

from worker.pruning.clipping import clip_gradients
from worker.pruning.masks import MaskSet
from worker.pruning.measured import Measured
from worker.pruning.once import prune
from worker.pruning.pruner import Pruner

__all__ = ["MaskSet", "Measured", "Pruner", "clip_gradients", "prune"]
