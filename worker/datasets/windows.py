"""Running text in memory as token ids, cut into windows of one length: a split for language modeling."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from worker.datasets.splits import MAX_TOKENS_AT_ONCE, Batch, cut_evenly
from worker.datasets.tokens import check_vocabulary
from worker.models.registry import Network

# Logits of all tokens at once, in numbers: half a gigabyte of them.
_MAX_LOGITS = 2**27


@dataclass(frozen=True)
class WindowSplit:
    """Windows [n, block] int32 of consecutive tokens; `dropped` tokens at the end did not fill one.

    `vocabulary` is how many logits the network gives for each token.
    """

    name: str
    windows: torch.Tensor
    dropped: int
    vocabulary: int

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.dropped:
            return ()
        block = self.windows.shape[1]
        return (
            f"split {self.name}: its last {self.dropped} tokens do not fill a window of {block} and were "
            "dropped",
        )

    @property
    def lengths(self) -> None:
        """All windows are alike."""
        return None

    @property
    def order(self) -> None:
        """Batches come in the split's own order."""
        return None

    def take(self, indices: torch.Tensor, *, generator: torch.Generator | None = None) -> Batch:
        """Return the windows at `indices` [b]; the targets are the same tokens: the objective shifts them."""
        return self._batch(self.windows[indices])

    @property
    def most_at_once(self) -> int:
        """How many windows a batch has at most, so that its logits and its attention fit into memory."""
        return max(1, min(MAX_TOKENS_AT_ONCE, _MAX_LOGITS // self.vocabulary) // self.windows.shape[1])

    def cut(self, indices: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the windows at `indices` [b] in several batches where windows or vocabulary are large."""
        return cut_evenly(indices, most=self.most_at_once)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the whole split in its order, in smaller batches where windows or vocabulary are large."""
        for windows in torch.split(self.windows, min(batch_size, self.most_at_once)):
            yield self._batch(windows)

    def check_fit(self, network: Network) -> None:
        """Refuse a network of another vocabulary; raises DatasetMismatch."""
        check_vocabulary(self.windows, self.name, network)

    def _batch(self, windows: torch.Tensor) -> Batch:
        ids = windows.long()
        return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
