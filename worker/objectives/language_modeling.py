"""Language modeling: the next token of a text, for each token but the last."""

import torch
from torch import Tensor
from torch.nn import functional

from worker.objectives.registry import Records, register


@register(
    "language-modeling",
    summary="The next token of running text, measured by perplexity.",
    metrics=("perplexity",),
)
class LanguageModeling:
    """Cross-entropy over logits [b, t, vocabulary] and targets [b, t] int64, the tokens that went in."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over all tokens that are predicted."""
        return functional.cross_entropy(*_shift(logits, targets))

    def distill(
        self, logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, temperature: float
    ) -> Tensor:
        """Return the softened distance to the teacher's answers, a mean over tokens.

        Hinton et al. 2015, section 2, with each token as a sample, as in Sanh et al. 2019 (DistilBERT).
        """
        soft = functional.kl_div(
            functional.log_softmax(_shift(logits, targets)[0] / temperature, dim=1),
            functional.log_softmax(_shift(teacher_logits, targets)[0] / temperature, dim=1),
            log_target=True,
            reduction="batchmean",
        )
        return temperature * temperature * soft

    def record(self, logits: Tensor, targets: Tensor) -> Records:
        """Return the summed negative log-likelihood of each text, [b] float64, and how many tokens it has."""
        nll = functional.cross_entropy(*_shift(logits, targets), reduction="none")  # [b (t - 1)]
        per_text = nll.double().reshape(len(targets), -1).sum(dim=1)
        return {"nll": per_text.cpu(), "tokens": torch.full((len(targets),), targets.shape[1] - 1)}


def _shift(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Pair each answer with the token after it: [b (t - 1), vocabulary] and [b (t - 1)]."""
    return logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten()
