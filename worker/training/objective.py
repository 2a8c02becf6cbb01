"""The loss of a fine-tune: cross-entropy, and the distance to the dense model's answers where asked for."""

import torch
from torch import nn
from torch.nn import functional

from app.core.spec import Distillation
from worker.datasets.images import ImageSplit


def compute_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    teacher_logits: torch.Tensor | None,
    distillation: Distillation | None,
) -> torch.Tensor:
    """Return the mean loss of a batch: logits [b, classes], labels [b] int64, teacher's logits like ours.

    Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2: softened answers weigh
    `alpha`, times the squared temperature, so that their gradients keep their size.
    """
    hard = functional.cross_entropy(logits, labels)
    if distillation is None or teacher_logits is None:
        return hard
    t = distillation.temperature
    soft = functional.kl_div(
        functional.log_softmax(logits / t, dim=1),
        functional.log_softmax(teacher_logits / t, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return (1 - distillation.alpha) * hard + distillation.alpha * t * t * soft


class Teacher:
    """The dense model's logits; without augmentation each sample is asked for once and remembered."""

    def __init__(self, module: nn.Module, split: ImageSplit, *, remembers: bool) -> None:
        self._module = module.eval().requires_grad_(False)
        self._remembers = remembers
        self._is_known = torch.zeros(len(split), dtype=torch.bool)
        self._known: torch.Tensor | None = None

    def answer(self, indices: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return logits [b, classes] for `images` [b, c, h, w], the split's samples `indices` [b]."""
        if not self._remembers:
            return self._ask(images)
        if self._known is None or not bool(self._is_known[indices].all()):
            self._learn(indices, self._ask(images).cpu())
        assert self._known is not None  # learned just now
        return self._known[indices].to(images.device)

    def _ask(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = self._module(images)
        return logits

    def _learn(self, indices: torch.Tensor, logits: torch.Tensor) -> None:
        if self._known is None:
            self._known = torch.zeros(len(self._is_known), logits.shape[1])
        self._known[indices] = logits
        self._is_known[indices] = True
