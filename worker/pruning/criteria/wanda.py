"""The Wanda criterion: a weight matters as much as the input that it multiplies.

Sun et al. 2024, arXiv:2306.11695, equation 1: |W_ij| · ‖X_j‖₂, with the norm of input feature j over all
samples and tokens. A convolution is the linear layer over its unfolded input: one feature per channel and
kernel offset. Inputs are those of the dense network, gathered in one pass; the authors go layer by layer
behind layers that are pruned already.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic
from worker.pruning.statistics.layer import as_rows, from_rows


@register(
    "criterion",
    "wanda",
    source="Sun et al. 2024, arXiv:2306.11695, equation 1",
    needs=("weights", "activations"),
)
class Wanda(Plugin):
    """Score |w|·‖x‖, a weight by the norm of the input that it multiplies."""

    compare: Annotated[
        Literal["row", "layer"],
        Field(
            description="row: weights compete within their output, as published, so every output loses an "
            "equal share; layer: scores as they are (needed for patterns that remove whole outputs)."
        ),
    ] = "row"

    def reads(self) -> tuple[Statistic, ...]:
        return ("input_norm",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return |w|·‖x‖, or its rank within its row as a fraction; float32, of the weight's shape.

        The k lowest ranks of a layer are the k / rows lowest of every row, so that a selection over the
        layer, or over all layers, is one within rows.
        """
        scores = weight.float().abs() * stats.get("input_norm")
        if self.compare == "layer":
            return scores
        return from_rows(_ranks(as_rows(scores, stats)), weight, stats)


def _ranks(rows: Tensor) -> Tensor:
    """Turn scores into ranks within each row over its length, ordered across rows by the scores themselves.

    [groups, out / groups, features] → the same shape, in [0, 1).
    """
    features = rows.shape[-1]
    order = rows.argsort(dim=-1, stable=True)
    rank = order.argsort(dim=-1)  # the inverse of a permutation
    # Less than half a rank, so that it only decides between equal ranks of different rows.
    largest = rows.max()
    fraction = rows / largest * 0.5 if largest > 0 else torch.zeros_like(rows)
    return (rank + fraction) / features
