"""Judge a model on the validation split while it trains: keep the best, stop when nothing is gained."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from app.core.finetune import EarlyStopping
from worker.datasets.splits import Split
from worker.measure.records import record_split
from worker.objectives.registry import Objective
from worker.training.checkpoint import Tree
from worker.training.metric import Metric


@dataclass(frozen=True)
class Validation:
    """The split that judges, by one metric."""

    split: Split
    objective: Objective
    metric: Metric
    batch_size: int
    device: torch.device

    def measure(self, module: nn.Module) -> float:
        """Return the metric over the split; the module is left in evaluation mode."""
        records = record_split(
            module, self.split, self.objective, batch_size=self.batch_size, device=self.device
        )
        return self.metric.measure(records)


class Judge:
    """Remembers the best state that it has seen, and how long nothing better came."""

    def __init__(self, metric: Metric, *, keeps_best: bool, stopping: EarlyStopping | None) -> None:
        self.best: Tree | None = None
        """`value`, `step` and `state` of the best evaluation; None while none is kept."""
        self._sign = 1.0 if metric.higher_is_better else -1.0
        self._keeps_best = keeps_best
        self._stopping = stopping
        self._reference: float | None = None
        self._evaluations_without_gain = 0

    @property
    def says_stop(self) -> bool:
        """True when the patience is at its end."""
        return self._stopping is not None and self._evaluations_without_gain >= self._stopping.patience

    def hear(self, value: float, *, step: int, make_state: Callable[[], Tree]) -> None:
        """Take note of an evaluation; `make_state` is asked when it is better than all before."""
        if self._keeps_best and (self.best is None or self._gain(value, self.best["value"]) > 0.0):
            self.best = {"value": value, "step": step, "state": make_state()}
        min_delta = self._stopping.min_delta if self._stopping else 0.0
        if self._reference is None or self._gain(value, self._reference) > min_delta:
            self._reference, self._evaluations_without_gain = value, 0
        else:
            self._evaluations_without_gain += 1

    def state_dict(self) -> Tree:
        """Return what it remembers."""
        return {
            "best": self.best,
            "reference": self._reference,
            "evaluations_without_gain": self._evaluations_without_gain,
        }

    def load_state_dict(self, state: Tree) -> None:
        """Put back what `state_dict` returned."""
        self.best = state["best"]
        self._reference = state["reference"]
        self._evaluations_without_gain = state["evaluations_without_gain"]

    def _gain(self, value: float, before: float) -> float:
        return self._sign * (value - before)
