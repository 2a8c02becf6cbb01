"""Labelled texts in memory as token ids, one split of a dataset, given out as padded batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from app.core.errors import DatasetMismatch
from worker.datasets.labels import check_labels
from worker.datasets.splits import MAX_TOKENS_AT_ONCE, Batch, cut_evenly
from worker.models.inputs import TextInput
from worker.models.registry import Network
from worker.models.tokenizer import Encoded


@dataclass(frozen=True)
class Tokens:
    """Texts one after the other: `ids` and `types` [t] int32, text i from `starts[i]` to `starts[i + 1]`."""

    ids: torch.Tensor
    types: torch.Tensor
    starts: torch.Tensor

    @classmethod
    def of(cls, encoded: Encoded) -> "Tokens":
        """Take what a tokenizer gave, at least one token."""
        starts = torch.tensor([0, *encoded.lengths]).cumsum(0)
        ids, types = (torch.frombuffer(values, dtype=torch.int32) for values in (encoded.ids, encoded.types))
        return cls(ids, types, starts)

    @property
    def lengths(self) -> torch.Tensor:
        """How many tokens each text has, [n] int64."""
        return self.starts.diff()


@dataclass(frozen=True)
class TextSplit:
    """Texts with labels [n]: int64 classes, or float32 numbers for regression.

    `names` is what the network takes; `truncated` texts were longer than `max_tokens` and were cut.
    """

    name: str
    tokens: Tokens
    labels: torch.Tensor
    names: tuple[str, ...]
    pad_id: int
    truncated: int
    max_tokens: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.truncated:
            return ()
        return (
            f"split {self.name}: {self.truncated} of {len(self)} texts have more than {self.max_tokens} "
            "tokens and were cut",
        )

    @property
    def lengths(self) -> torch.Tensor:
        """How many tokens each text has, [n] int64."""
        return self.tokens.lengths

    @property
    def order(self) -> torch.Tensor:
        """The texts by their length, so that batches pad little; the same on every run."""
        return self.lengths.argsort(stable=True)

    def take(self, indices: torch.Tensor, *, generator: torch.Generator | None = None) -> Batch:
        """Return the texts at `indices` [b], padded to the longest of them; there is nothing to vary."""
        tokens = self.tokens
        lengths = tokens.lengths[indices]
        places = torch.arange(int(lengths.max()))  # [t]
        is_text = places < lengths[:, None]  # [b, t]
        at = (tokens.starts[indices][:, None] + places).clamp(max=len(tokens.ids) - 1)
        inputs = {
            "input_ids": torch.where(is_text, tokens.ids[at].long(), self.pad_id),
            "attention_mask": is_text.long(),
            "token_type_ids": torch.where(is_text, tokens.types[at].long(), 0),
        }
        return Batch({name: inputs[name] for name in self.names}, self.labels[indices])

    def cut(self, indices: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the texts at `indices` [b] in several batches where they are long."""
        longest = int(self.lengths[indices].max())
        return cut_evenly(indices, most=MAX_TOKENS_AT_ONCE // longest)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the whole split in its `order`, in smaller batches where the texts are long."""
        order, start = self.order, 0
        for i, length in enumerate(self.lengths[order].tolist()):
            # The texts grow longer, so the newest says how long all of them are padded.
            if i > start and (i - start == batch_size or length * (i - start + 1) > MAX_TOKENS_AT_ONCE):
                yield self.take(order[start:i])
                start = i
        yield self.take(order[start:])

    def check_fit(self, network: Network) -> None:
        """Refuse another vocabulary or other classes; raises DatasetMismatch or LabelsOutOfRange."""
        check_vocabulary(self.tokens.ids, self.name, network)
        check_labels(self.labels, self.name, outputs=network.outputs)
        assert isinstance(network.inputs, TextInput)  # check_vocabulary refuses others
        highest = int(self.tokens.types.max())
        if "token_type_ids" in self.names and highest >= network.inputs.types:
            raise DatasetMismatch(
                f"split {self.name}: the tokenizer gives the token type {highest}, the model's go from 0 to "
                f"{network.inputs.types - 1}"
            )


def check_vocabulary(ids: torch.Tensor, name: str, network: Network) -> None:
    """Refuse a network whose embedding lacks some of the token ids; raises DatasetMismatch."""
    if not isinstance(network.inputs, TextInput):
        raise DatasetMismatch(f"split {name} holds text, the model takes images")
    highest, rows = int(ids.max()), network.inputs.vocabulary
    if highest >= rows:
        raise DatasetMismatch(
            f"split {name}: tokenizer.json gives the token id {highest}, the model's embedding has {rows} "
            "rows: they do not belong together"
        )
