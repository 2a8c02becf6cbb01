"""Plan which samples an optimizer's step sees: a function of the seed and the step alone."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from worker.training.randomness import make_generator

# So many steps are drawn at random, and sorted by length among themselves only.
_STEPS_A_POOL = 50


@dataclass(frozen=True)
class BatchPlan:
    """Every step sees `step_size` samples, in `parts` batches; an epoch leaves out what does not fill a step.

    A smaller last step would weigh its samples more, and a batch of one breaks BatchNorm. Where samples have
    `lengths` [n], a step sees samples of nearly one length: phrases of SST-2 would be two thirds padding
    otherwise.
    """

    samples: int
    step_size: int
    parts: int
    seed: int
    lengths: Tensor | None = field(default=None, compare=False, repr=False)
    _drawn: dict[int, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    @classmethod
    def for_split(
        cls,
        samples: int,
        batch_size: int,
        *,
        accumulate: int = 1,
        seed: int = 0,
        lengths: Tensor | None = None,
    ) -> "BatchPlan":
        """Plan epochs of at least one step: a split smaller than a step is one step."""
        step_size = min(batch_size * accumulate, samples)
        return cls(samples, step_size, -(-step_size // batch_size), seed, lengths)

    @property
    def steps_per_epoch(self) -> int:
        return self.samples // self.step_size

    def halved(self) -> "BatchPlan":
        """Return the plan with twice as many batches of half the size: the same samples a step."""
        return replace(self, parts=min(2 * self.parts, self.step_size))

    def batches(self, step: int) -> tuple[Tensor, ...]:
        """Return the samples of a step (from 0), batch by batch: indices [b] int64."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.step_size
        order = self._order(epoch)
        return order[start : start + self.step_size].tensor_split(self.parts)

    def first_epoch(self) -> tuple[Tensor, ...]:
        """Return every sample once: the batches of the first epoch, then the rest in none that is larger."""
        order = self._order(0)
        steps = order[: self.steps_per_epoch * self.step_size].reshape(-1, self.step_size)
        batches = [batch for step in steps for batch in step.tensor_split(self.parts)]
        rest = order[self.steps_per_epoch * self.step_size :]
        return (*batches, *torch.split(rest, self._batch_size)) if len(rest) else tuple(batches)

    def draw_equal(self, most: int) -> tuple[Tensor, ...]:
        """Return at most so many batches of samples, each sample once, to measure statistics over.

        All are of one size: in a mean over batches a smaller last one would count as much as a full one.
        """
        order = torch.randperm(self.samples, generator=make_generator(self.seed, "refresh", 0))
        full = self.samples // self._batch_size * self._batch_size
        return torch.split(order[:full], self._batch_size)[:most]

    @property
    def _batch_size(self) -> int:
        """The size of the largest batches."""
        return -(-self.step_size // self.parts)

    def _order(self, epoch: int) -> Tensor:
        """Return the samples of an epoch, step after step, and those that it leaves out."""
        if epoch not in self._drawn:
            # Steps come in their order: what they see is drawn once an epoch, and only the last is kept.
            self._drawn.clear()
            self._drawn[epoch] = self._draw_order(epoch)
        return self._drawn[epoch]

    def _draw_order(self, epoch: int) -> Tensor:
        order = torch.randperm(self.samples, generator=make_generator(self.seed, "order", epoch))
        if self.lengths is None:
            return order
        full = self.steps_per_epoch * self.step_size
        pools = torch.split(order[:full], _STEPS_A_POOL * self.step_size)
        pooled = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools])
        steps = torch.randperm(self.steps_per_epoch, generator=make_generator(self.seed, "steps", epoch))
        return torch.cat([pooled.reshape(-1, self.step_size)[steps].flatten(), order[full:]])
