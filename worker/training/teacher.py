"""The dense model that a pruned one learns from."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.core.finetune import Finetune
from worker.datasets.splits import Split
from worker.models.inputs import Inputs, compute_logits, move
from worker.training.hidden_states import HiddenStates
from worker.training.precision import autocast

_MOST_REMEMBERED_BYTES = 1 << 28


@dataclass(frozen=True)
class Answer:
    """The dense model's logits [b, …] float32, and what its blocks put out where that is asked for."""

    logits: Tensor
    hidden: Sequence[Tensor] = ()


class Teacher:
    """Answers for samples of a split, and remembers its answers where they cannot change.

    `blocks` are batches that hold every sample of the split once. What is remembered of a sample is always
    the answer in its own block: a product over other neighbours may differ in its last bit, and a run that
    is resumed, and has forgotten what it asked, must get the same answers.
    """

    def __init__(
        self,
        module: nn.Module,
        split: Split,
        *,
        settings: Finetune,
        device: torch.device,
        blocks: Sequence[Tensor],
    ) -> None:
        self._module = module.eval().requires_grad_(False)
        self._split = split
        self._settings = settings
        self._device = device
        self._blocks = blocks
        self._block_of = torch.zeros(len(split), dtype=torch.int64)
        for number, block in enumerate(blocks):
            self._block_of[block] = number
        self._is_known = [False] * len(blocks)
        self._known: Tensor | None = None
        distillation = settings.distillation
        self._wants_hidden = distillation is not None and distillation.hidden_states is not None
        # Augmented samples never come back the same; hidden states are too large to keep.
        self._may_remember = not settings.augment and not self._wants_hidden

    def answer(self, indices: Tensor, inputs: Inputs) -> Answer:
        """Answer for `inputs` on the device, the split's samples `indices` [b]."""
        if not self._may_remember:
            return self._ask(inputs)
        for number in sorted(set(self._block_of[indices].tolist())):
            if not self._is_known[number] and not self._learn(number):
                self._may_remember = False
                return self._ask(inputs)
        assert self._known is not None  # at least one block was learned
        return Answer(self._known[indices].to(self._device))

    def _ask(self, inputs: Inputs) -> Answer:
        hidden = HiddenStates(self._module) if self._wants_hidden else None
        with torch.no_grad(), autocast(self._settings, self._device), hidden or nullcontext():
            logits = compute_logits(self._module, inputs)
        return Answer(logits.float(), hidden.outputs if hidden else ())

    def _learn(self, number: int) -> bool:
        """Remember one block; tells whether there is room for all of them."""
        block = self._blocks[number]
        logits = self._ask(move(self._split.take(block).inputs, self._device)).logits.cpu()
        if self._known is None:
            # Answers for texts differ in their length from batch to batch, and one may be a megabyte.
            size_bytes = len(self._block_of) * logits[0].numel() * logits.element_size()
            if logits.ndim != 2 or size_bytes > _MOST_REMEMBERED_BYTES:
                return False
            self._known = torch.zeros(len(self._block_of), logits.shape[1])
        self._known[block] = logits
        self._is_known[number] = True
        return True
