"""Plan which samples an optimizer's step sees: a function of the seed and the step alone."""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from worker.training.randomness import make_generator


@dataclass(frozen=True)
class BatchPlan:
    """Every step sees `step_size` samples, in `parts` batches; an epoch leaves out what does not fill a step.

    A smaller last step would weigh its samples more, and a batch of one breaks BatchNorm.
    """

    samples: int
    step_size: int
    parts: int
    seed: int

    @classmethod
    def for_split(cls, samples: int, batch_size: int, *, accumulate: int = 1, seed: int = 0) -> "BatchPlan":
        """Plan epochs of at least one step: a split smaller than a step is one step."""
        step_size = min(batch_size * accumulate, samples)
        return cls(samples, step_size, -(-step_size // batch_size), seed)

    @property
    def steps_per_epoch(self) -> int:
        return self.samples // self.step_size

    def halved(self) -> "BatchPlan":
        """Return the plan with twice as many batches of half the size: the same samples a step."""
        return replace(self, parts=min(2 * self.parts, self.step_size))

    def batches(self, step: int) -> tuple[torch.Tensor, ...]:
        """Return the samples of a step (from 0), batch by batch: indices [b] int64."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.step_size
        order = _shuffle(self.samples, self.seed, epoch)
        return order[start : start + self.step_size].tensor_split(self.parts)

    def first_epoch(self) -> tuple[torch.Tensor, ...]:
        """Return every sample once: the batches of the first epoch, then the rest as one more."""
        batches = [batch for step in range(self.steps_per_epoch) for batch in self.batches(step)]
        rest = _shuffle(self.samples, self.seed, 0)[self.steps_per_epoch * self.step_size :]
        return (*batches, rest) if len(rest) else tuple(batches)


@lru_cache(maxsize=2)
def _shuffle(samples: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(samples, generator=make_generator(seed, "order", epoch))
