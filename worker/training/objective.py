"""The loss of a fine-tune: the task's own, and the distance to the dense model where it is asked for."""

import torch

from app.core.finetune import Distillation
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
