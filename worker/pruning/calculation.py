"""One pruning decision: score the groups of every unit, see how much is due, let the allocation choose."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from torch import Tensor, nn

from worker.pruning.budget import (
    least,
    most,
    scale_bounds,
    unit_bounds,
    weights_for_size,
    weights_for_sparsity,
)
from worker.pruning.damage import mean_loss
from worker.pruning.grouping import kept_groups, make_masks, reduce_scores
from worker.pruning.layers import find_layers
from worker.pruning.macs import count_all_macs, count_macs
from worker.pruning.measured import Measured
from worker.pruning.plan import Plan
from worker.pruning.protocols import (
    Bounds,
    Demand,
    FixesSparsity,
    MayScoreMagnitude,
    ThresholdsScores,
    Unit,
)
from worker.pruning.ranked import Ranked, check_finite
from worker.pruning.recipe import Recipe
from worker.pruning.select import keep_highest
from worker.pruning.sizes import Size, macs_size, parameters_size, stored_size, unsupported
from worker.pruning.statistics import LayerNeverRan, LayerStatistics, gather
from worker.pruning.statistics.calibration import Calibration, read_batches


class Calculation:
    """Decides from a model's present weights; `masks` are what is pruned already.

    `learned` are the scores, by layer name, of a criterion that learns them.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        recipe: Recipe,
        masks: Mapping[str, Tensor],
        calibration: Calibration,
        measured: Measured,
        *,
        learned: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._model = model
        self._plan = plan
        self._recipe = recipe
        self._masks = masks
        self._calibration = calibration
        self._measured = measured
        self._learned = learned or {}

    def kept_groups(self, fraction: float) -> list[Tensor]:
        """Return the kept groups of each unit, bool [groups], when a fraction of the target is due."""
        full = self._demand()
        units = full.units
        weights = self._weights_at_the_end(full)
        bounds = _bounds_at(full, fraction)
        wanted = round(fraction * weights)
        criterion = self._plan.criterion
        if isinstance(criterion, ThresholdsScores) and fraction < 1.0:
            wanted = min(_weights_up_to(criterion.score_threshold, full), weights)
        due = min(max(wanted, least(units, bounds)), most(units, bounds))
        return self._plan.allocation.allocate(replace(full, bounds=bounds, weights=due))

    @cached_property
    def statistics(self) -> Mapping[str, LayerStatistics]:
        """What the criterion reads of each pruned layer, by parameter name."""
        gathered = self._gather(self._plan.criterion)
        return {
            name: replace(statistics, learned_scores=self._learned.get(name))
            for name, statistics in gathered.items()
        }

    def _gather(self, reader: object) -> Mapping[str, LayerStatistics]:
        names = [layer.name for layer in self._plan.pruned_layers]
        return gather(self._model, names, criterion=reader, calibration=self._calibration)

    def _demand(self) -> Demand:
        plan = self._plan
        ranked = tuple(self._rank(unit) for unit in plan.units)
        return Demand(
            units=plan.units,
            ranked=ranked,
            bounds=tuple(self._bounds()),
            weights=0,
            statistics=self._gather(plan.allocation),
            damage=lambda i, count: self._damage(plan.units[i], ranked[i], count),
        )

    def _bounds(self) -> Sequence[Bounds]:
        plan, target = self._plan, self._recipe.target
        may_empty = (
            plan.pattern.may_empty_layers
            or bool(getattr(plan.allocation, "may_empty_layers", False))
            or (target.metric == "sparsity" and target.value == 1.0)
        )
        return [
            unit_bounds(unit, wish, plan.pattern, may_empty=may_empty)
            for unit, wish in zip(plan.units, plan.wishes, strict=True)
        ]

    def _rank(self, unit: Unit) -> Ranked:
        plan = self._plan
        is_masked = all(layer.name in self._masks for layer in unit.layers)
        mask = kept_groups(plan.pattern, unit, self._masks) if is_masked else None
        criterion = plan.criterion
        is_magnitude = isinstance(criterion, MayScoreMagnitude) and criterion.scores_magnitude
        if unit.group_size == 1 and is_magnitude:
            weights = {layer.name: layer.weight.detach() for layer in unit.layers}
            values = reduce_scores(plan.pattern, unit, weights)
            ranked = Ranked(values, absolute=True, mask=mask, name=unit.name)
        else:
            ranked = Ranked(self._score(unit), mask=mask, name=unit.name)
        if isinstance(plan.pattern, FixesSparsity):
            return replace(ranked, protected=plan.pattern.protect(unit, ranked))
        return ranked

    def _score(self, unit: Unit) -> Tensor:
        scores: dict[str, Tensor] = {}
        for layer in unit.layers:
            weight = layer.weight.detach()
            scores[layer.name] = self._plan.criterion.score(weight, self.statistics[layer.name])
            check_finite(scores[layer.name], layer.name)
        return reduce_scores(self._plan.pattern, unit, scores)

    def _weights_at_the_end(self, full: Demand) -> int:
        target = self._recipe.target
        if target.metric == "sparsity":
            return weights_for_sparsity(full, target.value)
        # What is pruned already stays, so the search is among the masks that contain it.
        later = replace(full, bounds=_bounds_at(full, 1.0))
        return weights_for_size(later, self._size(), target.value, self._plan.allocation.allocate)

    def _size(self) -> Size:
        plan = self._plan
        match self._recipe.target.metric:
            case "parameters":
                return parameters_size(plan.layers, plan.units)
            case "macs":
                macs = self._macs()
                return macs_size(plan.layers, plan.units, macs, others=self._measured.other_macs)
            case "size_bytes":
                return stored_size(self._model, plan.units, is_structured=plan.pattern.is_structured)
            case metric:
                raise unsupported(metric)

    def _macs(self) -> Mapping[str, int]:
        if self._measured.macs is None:
            device = self._plan.pruned_layers[0].weight.device
            batch = read_batches(self._calibration, device=device, reason="a target of macs")[0]
            # Layers that are not pruned take their part of what may not be exceeded.
            counts = count_macs(self._model, find_layers(self._model), batch)
            idle = [layer.name for layer in self._plan.pruned_layers if counts[layer.name] == 0]
            if idle:
                raise LayerNeverRan(
                    f"{', '.join(idle[:3])}: the forward pass never calls this layer, so its "
                    "multiply-accumulates cannot be counted: exclude it in the recipe, or give macs"
                )
            self._measured.macs = counts
            self._measured.other_macs = max(0, count_all_macs(self._model, batch) - sum(counts.values()))
        return self._measured.macs

    def _damage(self, unit: Unit, ranked: Ranked, count: int) -> float:
        known = self._measured.damage.setdefault(unit.name, {})
        pruned = count * unit.group_size
        if pruned not in known:
            possible = min(max(count, ranked.pruned), ranked.prunable)
            masks = make_masks(self._plan.pattern, unit, keep_highest([ranked], possible)[0].view(-1))
            known[pruned] = mean_loss(self._model, masks, self._calibration) - self._loss
        return known[pruned]

    @cached_property
    def _loss(self) -> float:
        return mean_loss(self._model, {}, self._calibration)


def _weights_up_to(threshold: float, demand: Demand) -> int:
    return sum(
        unit.group_size * int((ranked.values <= threshold).sum())
        for unit, ranked in zip(demand.units, demand.ranked, strict=True)
    )


def _bounds_at(demand: Demand, fraction: float) -> tuple[Bounds, ...]:
    return tuple(
        scale_bounds(final, fraction, ranked.pruned)
        for final, ranked in zip(demand.bounds, demand.ranked, strict=True)
    )
