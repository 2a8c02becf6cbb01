"""The SparseGPT criterion: a weight matters as much as what its row cannot make up for.

Frantar and Alistarh 2023, arXiv:2301.00774, section 3 and algorithm 1. With inputs X the layer's error is
‖WX − W'X‖², its Hessian H = E[x xᵀ]. Columns are frozen from left to right; when column j is, the columns
F = {j, j+1, …} are still open, removing w costs w² / [H_F⁻¹]_jj, and the rest of its row changes by
−w / [H_F⁻¹]_jj · [H_F⁻¹]_j. The rows of the upper Cholesky factor U of H⁻¹ hold all of these inverses
at once: [H_F⁻¹]_j = U_jj U_j.

Three ways to use it:
- `score`, for any pattern and allocation: w² / U_jj² of the weights as they are;
- `update_weight`, after any mask: the weights that are left make up for those that are not;
- `prune_count` and `prune_n_m`, as published: columns to prune are chosen while others are made up for.

Differs from the paper: H is of the dense network's inputs in every layer, from one pass; the count of a layer
is exact. When H is not positive definite, dampening is raised tenfold, with a warning, until it is.
"""

import warnings
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from worker.pruning.errors import PruningError, UnsuitableLayer
from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic
from worker.pruning.statistics.layer import as_rows, from_rows

_MOST_DAMPENING = 10.0


class DampeningRaised(UserWarning):
    """A layer's Hessian is not positive definite with the dampening that was asked for."""


class HessianNotPositiveDefinite(PruningError):
    """No dampening makes a layer's Hessian positive definite: its inputs are degenerate or not finite."""


@register(
    "criterion",
    "sparsegpt",
    source="Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1",
    needs=("weights", "activations"),
)
class SparseGPT(Plugin):
    """Score w² over the inverse Hessian of the layer's error; what is left is updated to make up for it."""

    dampening: Annotated[
        float,
        Field(gt=0.0, le=_MOST_DAMPENING, description="Added to H's diagonal, as a fraction of its mean."),
    ] = 0.01
    block_size: Annotated[int, Field(ge=1, le=65_536, description="Columns that are frozen together.")] = 128

    def reads(self) -> tuple[Statistic, ...]:
        return ("input_gram",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return w² / U_jj², float32, of the weight's shape; zero where the input is always zero."""
        gram = stats.get("input_gram")
        rows = _without_dead_inputs(as_rows(weight.float(), stats), gram)
        return from_rows(_costs(rows, _diagonal(self._factor(gram, stats.name))), weight, stats)

    @torch.no_grad()
    def update_weight(self, weight: Tensor, mask: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the weight with its pruned entries zero and the others making up for them.

        `mask` is bool, True where kept, of the weight's shape; the result has the weight's shape and dtype.
        """
        kept = as_rows(mask, stats)

        def choose(start: int, columns: Tensor, diagonal: Tensor) -> Tensor:
            return kept[..., start : start + columns.shape[-1]]

        factor = self._factor(stats.get("input_gram"), stats.name)
        rows, _ = _sweep(as_rows(weight.float(), stats), factor, choose, span=self.block_size)
        return from_rows(rows, weight, stats).to(weight.dtype)

    @torch.no_grad()
    def prune_count(self, weight: Tensor, stats: LayerStatistics, *, count: int) -> tuple[Tensor, Tensor]:
        """Prune exactly `count` weights, each block of columns its share; return (weight, mask)."""
        gram = stats.get("input_gram")
        rows = _without_dead_inputs(as_rows(weight.float(), stats), gram)
        per_column, features = rows[..., 0].numel(), rows.shape[-1]
        if not 0 <= count <= rows.numel():
            raise UnsuitableLayer(f"{stats.name}: cannot prune {count} of {rows.numel()} weights")

        def choose(start: int, columns: Tensor, diagonal: Tensor) -> Tensor:
            end = start + columns.shape[-1]
            # Rounded over all columns so far, so that the shares of the blocks add up to the count.
            share = round(count * end / features) - round(count * start / features)
            assert 0 <= share <= per_column * columns.shape[-1]
            return _keep_highest(_costs(columns, diagonal).flatten(), share).view(columns.shape)

        factor = self._factor(gram, stats.name)
        pruned, kept = _sweep(rows, factor, choose, span=self.block_size)
        return from_rows(pruned, weight, stats).to(weight.dtype), from_rows(kept, weight, stats)

    @torch.no_grad()
    def prune_n_m(
        self, weight: Tensor, stats: LayerStatistics, *, keep: int, of: int
    ) -> tuple[Tensor, Tensor]:
        """Keep `keep` of every `of` weights along the input dimension; return (weight, mask).

        Raises UnsuitableLayer when the inputs do not divide by `of`.
        """
        inputs = weight.shape[stats.input_dim]
        if not 0 <= keep <= of or inputs % of:
            raise UnsuitableLayer(f"{stats.name}: cannot keep {keep} of every {of} of {inputs} inputs")
        # Of a convolution's features, those of one kernel offset lie side by side, as N:M runs along inputs.
        order = torch.arange(as_rows(weight, stats).shape[-1], device=weight.device)
        order = order.view(inputs, -1).t().flatten()
        gram = stats.get("input_gram")[:, order][:, :, order]
        rows = _without_dead_inputs(as_rows(weight.float(), stats)[..., order], gram)

        def choose(start: int, columns: Tensor, diagonal: Tensor) -> Tensor:
            costs = _costs(columns, diagonal)  # [groups, out / groups, of]
            lowest = costs.argsort(dim=-1, stable=True)[..., : of - keep]
            return torch.ones_like(costs, dtype=torch.bool).scatter_(-1, lowest, False)

        pruned, kept = _sweep(rows, self._factor(gram, stats.name), choose, span=of)
        back = order.argsort()
        return (
            from_rows(pruned[..., back], weight, stats).to(weight.dtype),
            from_rows(kept[..., back], weight, stats),
        )

    def _factor(self, gram: Tensor, name: str) -> Tensor:
        """Return the upper Cholesky factor of the inverse of the dampened H: [groups, features, features]."""
        hessian = gram.double()
        diagonal = _diagonal(hessian)
        is_live = diagonal > 0
        mean = diagonal.sum(dim=1, keepdim=True) / is_live.sum(dim=1, keepdim=True).clamp(min=1)
        mean = torch.where(mean > 0, mean, 1.0)
        # An input that is always zero takes no part in the others, whose mean makes its column invertible.
        hessian = hessian + torch.diag_embed(torch.where(is_live, 0.0, mean))
        dampening = self.dampening
        while dampening <= _MOST_DAMPENING:
            factor = _inverse_factor(hessian + torch.diag_embed((dampening * mean).expand_as(diagonal)))
            if factor is not None:
                return factor.float()
            warnings.warn(
                f"{name}: H is not positive definite with dampening {dampening:g}, which is raised tenfold",
                DampeningRaised,
                stacklevel=3,
            )
            dampening *= 10
        raise HessianNotPositiveDefinite(
            f"{name}: H is not positive definite with {_MOST_DAMPENING:g} times its mean diagonal added; "
            "look for degenerate inputs, or calibrate with other data"
        )


def _inverse_factor(hessian: Tensor) -> Tensor | None:
    lower, failed = torch.linalg.cholesky_ex(hessian)
    if bool(failed.any()):
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if bool(failed.any()) or not bool(torch.isfinite(upper).all()) else upper


def _without_dead_inputs(rows: Tensor, gram: Tensor) -> Tensor:
    """Set weights of inputs that are always zero to zero: without effect, they are the first to go."""
    dead = _diagonal(gram) == 0  # [groups, features]
    return rows.masked_fill(dead.unsqueeze(1), 0.0)


def _diagonal(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2)


def _costs(rows: Tensor, diagonal: Tensor) -> Tensor:
    """Return w² / U_jj²: [groups, out / groups, columns] by [groups, columns]."""
    return (rows / diagonal.unsqueeze(1)).square()


def _keep_highest(costs: Tensor, pruned: int) -> Tensor:
    kept = torch.ones_like(costs, dtype=torch.bool)
    kept[costs.argsort(stable=True)[:pruned]] = False
    return kept


def _sweep(
    rows: Tensor, factor: Tensor, choose: Callable[[int, Tensor, Tensor], Tensor], *, span: int
) -> tuple[Tensor, Tensor]:
    """Freeze columns from left to right, `span` at a time (algorithm 1); return (rows, kept).

    `choose(start, columns, diagonal)` says which of the next columns, as they are by then, are kept.
    """
    rows = rows.clone()
    kept = torch.ones_like(rows, dtype=torch.bool)
    features = rows.shape[-1]
    for start in range(0, features, span):
        end = min(start + span, features)
        block = rows[..., start:end]  # [groups, out / groups, span], a view
        upper = factor[:, start:end]  # [groups, span, features]
        kept[..., start:end] = choose(start, block, _diagonal(upper[..., start:end]))
        errors = torch.zeros_like(block)
        for column in range(end - start):
            lost = block[..., column].masked_fill(kept[..., start + column], 0.0)
            errors[..., column] = lost / upper[:, column, start + column].unsqueeze(1)
            effect = upper[:, column, start + column : end].unsqueeze(1)
            block[..., column:] -= errors[..., column].unsqueeze(-1) * effect
        # Columns behind the block change once a block, not once a column.
        rows[..., end:] -= errors @ upper[..., end:]
        block.masked_fill_(~kept[..., start:end], 0.0)
    return rows, kept
