"""Turn one pruning decision into masks, for criteria of every kind."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from worker.pruning.calculation import Calculation
from worker.pruning.errors import MissingData, NeedsTraining
from worker.pruning.grouping import make_masks
from worker.pruning.learning import ScoreLearner
from worker.pruning.measured import Measured
from worker.pruning.plan import Plan
from worker.pruning.protocols import UpdatesWeights
from worker.pruning.recipe import Recipe
from worker.pruning.replicas import agree, agree_on_all
from worker.pruning.statistics.calibration import Calibration, Inputs, Loss, Targets
from worker.pruning.statistics.gather import DATA_FREE, reads_of

Data = Iterable[tuple[Inputs, Targets]]
Masks = Mapping[str, Tensor]


class Decider:
    """Decides for one model; `data` and `loss` are what its statistics are gathered over."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        recipe: Recipe,
        *,
        data: Data | None,
        loss: Loss | None,
        measured: Measured,
    ) -> None:
        self._model = model
        self._plan = plan
        self._recipe = recipe
        # An iterator could be read once only; every decision reads the data.
        self._data = list(data) if isinstance(data, Iterator) else data
        self._loss = loss
        self._measured = measured

    def check_data(self) -> None:
        """Raise MissingData where the recipe reads data and there is none: before a training, not in it."""
        if self._data is not None:
            return
        for reader in (self._plan.criterion, self._plan.allocation):
            if set(reads_of(reader)) - DATA_FREE:
                raise MissingData(f"{type(reader).__name__} needs data: give batches of (inputs, targets)")
        if self._recipe.target.metric == "macs" and self._measured.macs is None:
            raise MissingData("a target of macs needs data: give batches of (inputs, targets), or macs")

    @torch.no_grad()
    def decide(
        self, fraction: float, before: Masks, *, seed: int, learned: Masks | None = None
    ) -> dict[str, Tensor]:
        """Return masks by layer name when a fraction of the target is due and `before` is pruned already.

        A criterion that updates weights does so. `learned` are the scores of one that learns them.
        """
        plan = self._plan
        calculation = Calculation(
            self._model,
            plan,
            self._recipe,
            before,
            Calibration(self._data, self._loss, seed=seed),
            self._measured,
            learned=learned,
        )
        masks: dict[str, Tensor] = {}
        for unit, groups in zip(plan.units, calculation.kept_groups(fraction), strict=True):
            masks.update(make_masks(plan.pattern, unit, groups))
        masks = agree_on_all(masks)
        if isinstance(plan.criterion, UpdatesWeights):
            for layer in plan.pruned_layers:
                mask, statistics = masks[layer.name], calculation.statistics[layer.name]
                layer.weight.copy_(agree(plan.criterion.update_weight(layer.weight, mask, statistics)))
        return masks

    @torch.no_grad()
    def decide_by_learned(
        self, learner: ScoreLearner, fraction: float, before: Masks, *, seed: int
    ) -> dict[str, Tensor]:
        """Do the same by learned scores: all weights take part again, pruned ones with their last values.

        Raises NeedsTraining before anything was learned.
        """
        if not learner.scores:
            raise NeedsTraining(
                f"{self._recipe.criterion.name} needs training steps to learn its scores from, and there was "
                "none yet: attach the optimizer, train, and let the schedule start after the first step"
            )
        learner.uncover(before)
        masks = before
        try:
            masks = decided = self.decide(fraction, {}, seed=seed, learned=learner.scores)
        finally:
            learner.cover(masks)
        return decided
