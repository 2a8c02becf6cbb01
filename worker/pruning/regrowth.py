"""Move the kept weights of a layer about: the weakest go, as many others come.

Evci et al. 2020, arXiv:1911.11134, algorithm 1, and Mocanu et al. 2018, arXiv:1707.04383, algorithm 1. What
goes and what comes are groups of the pattern, single weights where that is unstructured; every unit keeps as
many as it had. Candidates to come are all that are not kept once the weakest are gone, so one of those may
come back at once; it then has never been away and keeps its value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from worker.pruning.errors import NeedsTraining
from worker.pruning.grouping import kept_groups, make_masks, reduce_scores
from worker.pruning.learning import sum_gradients
from worker.pruning.plan import Plan
from worker.pruning.protocols import FixesSparsity, Pattern, Unit
from worker.pruning.ranked import Ranked, check_finite, count_true
from worker.pruning.replicas import agree_on_all
from worker.pruning.select import keep_highest
from worker.pruning.statistics.seeding import generator_for

Growth = Callable[[Unit], Tensor | None]


@torch.no_grad()
def regrow(plan: Plan, masks: Mapping[str, Tensor], growth: Growth, *, share: float) -> dict[str, Tensor]:
    """Return masks by layer name, of the same counts, with a share of each unit's kept groups exchanged.

    `growth(unit)` are the scores, float [groups], by which groups come; a unit without any stays as it is.
    """
    moved: dict[str, Tensor] = {}
    for unit in plan.units:
        scores = growth(unit)
        kept = kept_groups(plan.pattern, unit, masks)
        if scores is not None:
            weights = {layer.name: layer.weight.detach().float().abs() for layer in unit.layers}
            magnitudes = reduce_scores(plan.pattern, unit, weights)
            kept = _exchange(plan.pattern, unit, kept, magnitudes=magnitudes, growth=scores, share=share)
        moved.update(make_masks(plan.pattern, unit, kept))
    return agree_on_all(moved)


def _exchange(
    pattern: Pattern, unit: Unit, kept: Tensor, *, magnitudes: Tensor, growth: Tensor, share: float
) -> Tensor:
    """Return kept groups, bool [groups], as many as before: the weakest share gone, the best others come."""
    pruned = unit.groups - count_true(kept)
    weakest = round(share * (unit.groups - pruned))
    left = keep_highest([Ranked(magnitudes, mask=kept, name=unit.name)], pruned + weakest)[0]
    return _keep_best(pattern, unit, Ranked(growth, protected=left, name=unit.name), pruned)


def draw_alike(plan: Plan, masks: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Return masks by layer name drawn by chance: of each unit as many groups, as the pattern allows."""
    drawn: dict[str, Tensor] = {}
    for unit in plan.units:
        kept = kept_groups(plan.pattern, unit, masks)
        ranked = Ranked(_draw(unit, seed, "mask"), name=unit.name)
        drawn.update(
            make_masks(
                plan.pattern, unit, _keep_best(plan.pattern, unit, ranked, unit.groups - count_true(kept))
            )
        )
    return agree_on_all(drawn)


def by_chance(seed: int, step: int) -> Growth:
    """Return growth by uniform numbers, others at every step; what is not trained does not grow."""

    def growth(unit: Unit) -> Tensor | None:
        is_trained = any(layer.weight.requires_grad for layer in unit.layers)
        return _draw(unit, seed, "growth", step) if is_trained else None

    return growth


def by_gradient(pattern: Pattern, parameters: Mapping[str, Sequence[nn.Parameter]]) -> Growth:
    """Return growth by |gradient|, reduced to groups; what has none in this step does not grow.

    A layer is frozen, or took no part: an expert that no token went to. Raises NeedsTraining where all
    gradients are gone.
    """
    trained = [name for name, weights in parameters.items() if any(w.requires_grad for w in weights)]
    if trained and all(sum_gradients(parameters[name]) is None for name in trained):
        raise NeedsTraining(
            f"{trained[0]} has no gradient, nor has any other layer, and those that grow are chosen by it: "
            "call the pruner's step() after the optimizer's and before zero_grad()"
        )

    def growth(unit: Unit) -> Tensor | None:
        found = {layer.name: sum_gradients(parameters[layer.name]) for layer in unit.layers}
        is_trained = any(layer.weight.requires_grad for layer in unit.layers)
        if not is_trained or all(gradient is None for gradient in found.values()):
            return None
        sizes = {
            layer.name: torch.zeros_like(layer.weight) if gradient is None else gradient
            for layer, gradient in zip(unit.layers, found.values(), strict=True)
        }
        return reduce_scores(pattern, unit, {name: size.float().abs() for name, size in sizes.items()})

    return growth


def _draw(unit: Unit, seed: int, *purpose: str | int) -> Tensor:
    """Return uniform numbers from 0 to 1, float32 [groups], on the unit's device."""
    values = torch.rand(unit.groups, generator=generator_for(seed, *purpose, unit.name))
    return values.to(unit.layers[0].weight.device)


def _keep_best(pattern: Pattern, unit: Unit, ranked: Ranked, pruned: int) -> Tensor:
    check_finite(ranked.values, unit.name)
    if isinstance(pattern, FixesSparsity):
        # What is protected ranks highest in its set of weights, so it stays among those that the set keeps.
        ranked = replace(ranked, protected=pattern.protect(unit, ranked))
    return keep_highest([ranked], pruned)[0].view(-1)
