"""Regression: one number for each sample."""

from torch import Tensor
from torch.nn import functional

from worker.objectives.registry import Records, register


@register("regression", summary="One number a sample, measured by the mean squared error.", metrics=("mse",))
class Regression:
    """Squared error over outputs [b, 1] and numbers [b] float32."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error."""
        return functional.mse_loss(logits.squeeze(1), targets)

    def distill(
        self, logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, temperature: float
    ) -> Tensor:
        """Return the mean squared distance to the teacher's numbers; a temperature means nothing here."""
        return functional.mse_loss(logits, teacher_logits)

    def record(self, logits: Tensor, targets: Tensor) -> Records:
        """Return the answer and the truth, both [b] float32."""
        return {"prediction": logits.squeeze(1).float().cpu(), "truth": targets.float().cpu()}
