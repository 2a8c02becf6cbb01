"""The loss of a fine-tune: the task's own, and the distance to the dense model's answers where asked for."""

import torch
from torch import nn

from app.core.spec import Distillation
from worker.datasets.splits import Split
from worker.models.inputs import Inputs, compute_logits, leaves
from worker.objectives.registry import Objective


def compute_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    objective: Objective,
    teacher_logits: torch.Tensor | None,
    distillation: Distillation | None,
) -> torch.Tensor:
    """Return the mean loss of a batch; the teacher's logits are shaped like ours and weigh `alpha`."""
    hard = objective.loss(logits, targets)
    if distillation is None or teacher_logits is None:
        return hard
    soft = objective.distill(logits, teacher_logits, targets, temperature=distillation.temperature)
    return (1 - distillation.alpha) * hard + distillation.alpha * soft


class Teacher:
    """The dense model's logits; without augmentation each sample is asked for once and remembered."""

    def __init__(self, module: nn.Module, split: Split, *, remembers: bool) -> None:
        self._module = module.eval().requires_grad_(False)
        self._remembers = remembers
        self._is_known = torch.zeros(len(split), dtype=torch.bool)
        self._known: torch.Tensor | None = None

    def answer(self, indices: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Return the logits [b, …] for `inputs`, the split's samples `indices` [b]."""
        if not self._remembers:
            return self._ask(inputs)
        if self._known is None or not bool(self._is_known[indices].all()):
            self._learn(indices, self._ask(inputs).cpu())
        assert self._known is not None  # learned just now
        return self._known[indices].to(leaves(inputs)[0].device)

    def _ask(self, inputs: Inputs) -> torch.Tensor:
        with torch.no_grad():
            return compute_logits(self._module, inputs)

    def _learn(self, indices: torch.Tensor, logits: torch.Tensor) -> None:
        if self._known is None:
            self._known = torch.zeros(len(self._is_known), logits.shape[1])
        self._known[indices] = logits
        self._is_known[indices] = True
