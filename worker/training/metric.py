"""The one metric by which a training is watched and judged."""

from dataclasses import dataclass

from worker.measure.comparison import read_answers
from worker.measure.metrics import METRICS, measure
from worker.objectives.registry import Records


@dataclass(frozen=True)
class Metric:
    """A metric by its name, for a model that tells so many classes apart."""

    name: str
    classes: int

    @property
    def higher_is_better(self) -> bool:
        return METRICS[self.name].higher_is_better

    def measure(self, records: Records) -> float:
        """Return the metric over these samples."""
        return measure(METRICS[self.name], read_answers(records, classes=self.classes))
