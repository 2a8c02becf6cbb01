"""How far a job is."""

import pytest

from app.core.states import Stage
from worker.pipeline.progress import ProgressReporter


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def run_stage(stage: Stage, *, has_finetune: bool = True, step_s: float = 1.0, total: int = 10):
    sent, clock = [], Clock()
    reporter = ProgressReporter(sent.append, stage, has_finetune=has_finetune, clock=clock)
    for step in range(1, total + 1):
        clock.now_s += step_s
        reporter.report(step, total, lambda: {"loss": 0.5})
    return sent


@pytest.mark.parametrize("has_finetune", [True, False])
def test_the_fraction_never_falls_and_ends_at_one(has_finetune):
    stages = [s for s in Stage if has_finetune or s is not Stage.FINETUNE]
    fractions = [m.fraction for s in stages for m in run_stage(s, has_finetune=has_finetune)]
    assert fractions == sorted(fractions)
    assert fractions[0] > 0
    assert fractions[-1] == pytest.approx(1.0)


def test_messages_are_a_second_apart_at_least():
    assert len(run_stage(Stage.FINETUNE, step_s=0.125, total=80)) == 10


def test_the_rest_is_estimated_from_the_steps_so_far():
    message = run_stage(Stage.FINETUNE, step_s=2.0, total=10)[3]
    assert (message.step, message.total, message.data) == (4, 10, {"loss": 0.5})
    assert message.eta_s == pytest.approx(12.0)
