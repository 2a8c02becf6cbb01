"""Tell how far the whole job is, at most once a second."""

import time
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from app.core.states import Stage
from worker.protocol import CheckpointWritten, MemoryRanOut, Progress

_INTERVAL_S = 1.0
# Rough shares of a job's time; a stage that is not run has none.
_SHARES: Mapping[Stage, float] = {
    Stage.LOAD: 1,
    Stage.BASELINE: 3,
    Stage.PRUNE: 4,
    Stage.FINETUNE: 80,
    Stage.EVALUATE: 3,
    Stage.EXPORT: 1,
    Stage.VERIFY: 8,
}


class ProgressReporter:
    """Sends the steps of one stage as a fraction of the whole job.

    `probe_trainings` is how many whole fine-tunes the trainings of its structure's probes amount to.
    """

    def __init__(
        self,
        send: Callable[[Progress | CheckpointWritten | MemoryRanOut], None],
        stage: Stage,
        *,
        has_finetune: bool,
        probe_trainings: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        shares = {s: share for s, share in _SHARES.items() if has_finetune or s is not Stage.FINETUNE}
        shares[Stage.PRUNE] += probe_trainings * _SHARES[Stage.FINETUNE]
        before = [shares.get(s, 0.0) for s in Stage if list(Stage).index(s) < list(Stage).index(stage)]
        self._send = send
        self._stage = stage
        self._start_fraction = sum(before) / sum(shares.values())
        self._share = shares.get(stage, 0.0) / sum(shares.values())
        self._clock = clock
        self._started_s = self._sent_s = clock()
        self._first_step = 0
        self._resumed: dict[str, JsonValue] = {}

    def resume(self, step: int, total: int) -> None:
        """Tell at once that this attempt goes on after `step`; the time left is estimated from there."""
        self._first_step = step
        self._resumed = {"resumed_at": step}
        self._send_at(step, total, {})

    def tell_checkpoint(self, step: int) -> None:
        """Tell that what was done up to `step` need not be done again."""
        self._send(CheckpointWritten(stage=self._stage, step=step))

    def tell_halved(self, batch_size: int) -> None:
        """Tell that the stage begins anew because memory ran out; so does the estimate of the time left."""
        self._first_step, self._resumed, self._started_s = 0, {}, self._clock()
        detail = f"memory ran out at a batch size of {batch_size}; done again in batches of half the size"
        self._send(MemoryRanOut(stage=self._stage, detail=detail))

    def report(self, step: int, total: int, data: Callable[[], dict[str, JsonValue]] = dict) -> None:
        """Report `step` of `total` done; `data` is asked only when a message goes out."""
        if self._clock() - self._sent_s < _INTERVAL_S:
            return
        self._send_at(step, total, data())

    def _send_at(self, step: int, total: int, data: dict[str, JsonValue]) -> None:
        self._sent_s = now_s = self._clock()
        done = step - self._first_step
        self._send(
            Progress(
                stage=self._stage,
                fraction=self._start_fraction + self._share * step / total,
                step=step,
                total=total,
                eta_s=(now_s - self._started_s) / done * (total - step) if done else None,
                data={**self._resumed, **data},
            )
        )
