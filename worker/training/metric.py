"""The one metric by which a training is watched and judged."""

from dataclasses import dataclass
from typing import Protocol

from worker.objectives.registry import Records


class Measure(Protocol):
    """Turns records of samples into the metric's value."""

    def __call__(self, records: Records) -> float: ...


@dataclass(frozen=True)
class Metric:
    """A metric by its name, and which way is better."""

    name: str
    higher_is_better: bool
    measure: Measure


def _compute_accuracy(records: Records) -> float:
    return float((records["prediction"] == records["truth"]).float().mean())


ACCURACY = Metric("accuracy", True, _compute_accuracy)
