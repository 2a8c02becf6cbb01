"""Report where a recovery stands as the progress of its stage."""

from dataclasses import dataclass

from pydantic import JsonValue

from worker.pipeline.progress import ProgressReporter
from worker.stopping import Stopped, StopRequest
from worker.training.recovery import Moment


@dataclass(frozen=True)
class StageWatch:
    """Watches one of the stage's recoveries: `offset` of its `total` steps are those of recoveries before."""

    progress: ProgressReporter
    offset: int
    total: int
    stop: StopRequest

    @property
    def wants_stop(self) -> bool:
        return self.stop.is_made

    def resumed_at(self, step: int) -> None:
        """Say that this attempt goes on where an earlier one stopped."""
        self.progress.resume(self.offset + step, self.total)

    def checkpointed(self, step: int) -> None:
        """Say so; raises Stopped when that is what it was written for."""
        self.progress.tell_checkpoint(self.offset + step)
        if self.wants_stop:
            raise Stopped

    def after_step(self, moment: Moment) -> None:
        """Report a step, when a report is due."""

        def describe() -> dict[str, JsonValue]:
            return {
                **moment.metrics,
                "sparsity": moment.sparsity,
                "learning_rate": moment.result.learning_rate,
            }

        self.progress.report(self.offset + moment.step, self.total, describe)
