"""The random criterion: the control that every other one has to beat.

Blalock et al. 2020, arXiv:2003.03033, section 7.1. Each layer draws from a generator of its own, made of the
seed and the parameter's name, so a mask depends neither on the order of layers nor on which others there are.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics
from worker.pruning.statistics.seeding import generator_for


@register("criterion", "random", source="Blalock et al. 2020, arXiv:2003.03033, section 7.1")
class Random(Plugin):
    """Score weights by chance: the control."""

    seed: Annotated[int, Field(ge=0, description="Added to the seed of the run.")] = 0

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return uniform numbers from 0 to 1, float32, of the weight's shape."""
        generator = generator_for(stats.seed, "random", self.seed, stats.name)
        return torch.rand(weight.shape, generator=generator, dtype=torch.float32).to(weight.device)
