"""Shuffle a split into training batches, the same on every run with the same seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BatchPlan:
    """How many batches of which size an epoch has; what does not fill a batch waits for the next shuffle.

    A smaller last batch would weigh its samples more, and a batch of one breaks BatchNorm.
    """

    samples: int
    batch_size: int

    @classmethod
    def for_split(cls, samples: int, batch_size: int) -> "BatchPlan":
        """Plan epochs of at least one batch: a split smaller than a batch is one batch."""
        return cls(samples, min(batch_size, samples))

    @property
    def batches_per_epoch(self) -> int:
        return self.samples // self.batch_size

    def indices(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Yield indices [batch_size] int64, one shuffled epoch after the other, without end."""
        while True:
            order = torch.randperm(self.samples, generator=generator)
            yield from order[: self.batches_per_epoch * self.batch_size].reshape(-1, self.batch_size)
