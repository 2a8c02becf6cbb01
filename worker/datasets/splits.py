"""What every split of a dataset promises, whatever its task: samples by index, and batches in order."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch

from worker.models.inputs import Inputs
from worker.models.registry import Network

# A batch of long texts is cut into several: attention over 256 texts of 512 tokens would take gigabytes.
MAX_TOKENS_AT_ONCE = 16_384


class Batch(NamedTuple):
    """`inputs` as the network takes them, `targets` [b, …] as the task's objective does; on the CPU."""

    inputs: Inputs
    targets: torch.Tensor


class Split(Protocol):
    """One split, in memory."""

    @property
    def name(self) -> str: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say what a user should know of how the split was read."""
        ...

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> torch.Tensor | None:
        """Return how long each sample is, [n] int64; None where all are alike.

        A batch of samples of one length pads little, and padding is computed like everything else.
        """
        ...

    @property
    def order(self) -> torch.Tensor | None:
        """Return the order in which `batches` yields the samples, indices [n]; None for the split's own."""
        ...

    def take(self, indices: torch.Tensor, *, generator: torch.Generator | None = None) -> Batch:
        """Return the samples at `indices` [b]; with a generator varied at random, for training."""
        ...

    def cut(self, indices: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the samples at `indices` [b] in as few batches as fit into memory, of nearly one size."""
        ...

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the whole split in its `order`; the last batch may be smaller."""
        ...

    def check_fit(self, network: Network) -> None:
        """Refuse a network that cannot read the samples or answer them, with an error of InvalidDataset's."""
        ...


def cut_evenly(indices: torch.Tensor, *, most: int) -> Sequence[torch.Tensor]:
    """Cut indices [b] into as few pieces as have at most so many each."""
    return indices.tensor_split(-(-len(indices) // max(1, most)))
