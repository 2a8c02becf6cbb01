"""Classification: one class of several for each sample."""

from torch import Tensor
from torch.nn import functional

from worker.objectives.registry import Records, register

_METRICS = ("accuracy", "f1", "mcc")


@register("text-classification", summary="One class a text, measured by accuracy.", metrics=_METRICS)
@register("image-classification", summary="One class an image, measured by accuracy.", metrics=_METRICS)
class Classification:
    """Cross-entropy over logits [b, classes] and labels [b] int64."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return functional.cross_entropy(logits, targets)

    def distill(
        self, logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, temperature: float
    ) -> Tensor:
        """Return the softened distance to the teacher's answers.

        Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2: times the squared
        temperature, so that the gradients keep their size.
        """
        soft = functional.kl_div(
            functional.log_softmax(logits / temperature, dim=1),
            functional.log_softmax(teacher_logits / temperature, dim=1),
            log_target=True,
            reduction="batchmean",
        )
        return temperature * temperature * soft

    def record(self, logits: Tensor, targets: Tensor) -> Records:
        """Return the answer and the truth, both [b] int64."""
        return {"prediction": logits.argmax(dim=1).cpu(), "truth": targets.cpu()}
