"""What the rounds of a recovery reached, and the running means of what its steps measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.pruning.history import Reached
from worker.training.checkpoint import Tree

# How much a new step moves the running loss and metric.
_SMOOTHING = 0.05


@dataclass(frozen=True)
class Row:
    """One round: `step` counts over all trainings, `fraction` is the part of the target that was due."""

    round: int
    step: int
    fraction: float
    sparsity: float
    metrics: dict[str, float]
    note: str | None = None


@dataclass
class History:
    """The rows in their order; `noted` of the pruner's rounds are among them."""

    rows: list[Row] = field(default_factory=list)
    noted: int = 0

    def note(
        self, rounds: Sequence[Reached], *, step: int, metrics: Mapping[str, float], rewound_to: int | None
    ) -> None:
        """Add a row for each of the pruner's rounds that has none yet."""
        for reached in rounds[self.noted :]:
            planned = reached.round
            note = _describe(reached, rewound_to)
            row = Row(planned.number, step, planned.fraction, reached.sparsity, dict(metrics), note)
            self.rows.append(row)
        self.noted = len(rounds)

    def note_dense(self, *, step: int, metrics: Mapping[str, float]) -> None:
        """Add a row for the training before anything is pruned."""
        self.rows.append(Row(0, step, 0.0, 0.0, dict(metrics), "trained dense"))

    def measure_last(self, metrics: Mapping[str, float]) -> None:
        """Say of the last row what the model was worth when its training ended."""
        self.rows[-1] = Row(**{**vars(self.rows[-1]), "metrics": dict(metrics)})

    def state_dict(self) -> Tree:
        """Return it as JSON."""
        return {"rows": [vars(row) for row in self.rows], "noted": self.noted}

    def load_state_dict(self, state: Tree) -> None:
        """Put back what `state_dict` returned."""
        self.rows, self.noted = [Row(**row) for row in state["rows"]], state["noted"]


@dataclass
class RunningMeans:
    """Loss and metric over the last steps, smoothed, and the latest validation; `name` is the metric's."""

    name: str
    loss: float | None = None
    metric: float | None = None
    validation: float | None = None

    def add(self, loss: float, metric: float) -> None:
        """Take a step in.

        Perplexities are smoothed as the logarithms that they are powers of: one of a bad step would stand out
        for hundreds of steps.
        """
        self.loss = _smooth(self.loss, loss)
        if self.name == "perplexity":
            before = None if self.metric is None else math.log(self.metric)
            self.metric = math.exp(_smooth(before, math.log(metric)))
        else:
            self.metric = _smooth(self.metric, metric)

    def as_metrics(self) -> dict[str, float]:
        """Return what is known, by name."""
        return self.of_training() | _leave_out_unknown({f"validation_{self.name}": self.validation})

    def of_training(self) -> dict[str, float]:
        """Return the means, by name: the latest validation may be of an earlier model."""
        return _leave_out_unknown({"train_loss": self.loss, f"train_{self.name}": self.metric})


def _leave_out_unknown(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _describe(reached: Reached, rewound_to: int | None) -> str | None:
    if rewound_to is not None:
        return f"weights rewound to those of step {rewound_to} of the first training"
    if reached.grown:
        return f"{reached.dropped} weights dropped, {reached.grown} grown"
    return None


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else before + _SMOOTHING * (now - before)
