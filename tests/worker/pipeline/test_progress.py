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


def run_stage(stage: Stage, *, step_s: float = 1.0, total: int = 10, **job):
    sent, clock = [], Clock()
    reporter = ProgressReporter(sent.append, stage, **({"has_finetune": True} | job), clock=clock)
    for step in range(1, total + 1):
        clock.now_s += step_s
        reporter.report(step, total, lambda: {"loss": 0.5})
    return sent


@pytest.mark.parametrize(
    "job", [{}, {"has_finetune": False}, {"probe_trainings": 1.2}], ids=["trained", "pruned", "searched"]
)
def test_the_fraction_never_falls_and_ends_at_one(job):
    stages = [s for s in Stage if job.get("has_finetune", True) or s is not Stage.FINETUNE]
    fractions = [m.fraction for s in stages for m in run_stage(s, **job)]
    assert fractions == sorted(fractions)
    assert fractions[0] > 0
    assert fractions[-1] == pytest.approx(1.0)


def test_a_search_that_trains_its_probes_takes_the_time_of_these_trainings():
    ends = {share: run_stage(Stage.PRUNE, probe_trainings=share)[-1].fraction for share in (0.0, 1.0)}
    assert ends[0.0] == pytest.approx(0.08)
    assert ends[1.0] == pytest.approx(0.08 / 1.8 + 80 / 180)


def test_messages_are_a_second_apart_at_least():
    assert len(run_stage(Stage.FINETUNE, step_s=0.125, total=80)) == 10


def test_the_rest_is_estimated_from_the_steps_so_far():
    message = run_stage(Stage.FINETUNE, step_s=2.0, total=10)[3]
    assert (message.step, message.total, message.data) == (4, 10, {"loss": 0.5})
    assert message.eta_s == pytest.approx(12.0)


def test_a_stage_done_again_for_want_of_memory_is_estimated_anew():
    sent, clock = [], Clock()
    reporter = ProgressReporter(sent.append, Stage.FINETUNE, has_finetune=True, clock=clock)
    reporter.resume(500, 1000)
    clock.now_s += 40.0
    reporter.tell_halved(128)
    clock.now_s += 2.0
    reporter.report(1, 1000)
    assert sent[-1].eta_s == pytest.approx(2.0 * 999)
    assert sent[-1].data == {}


def test_a_resumed_stage_says_where_at_once_and_estimates_from_what_it_did_itself():
    sent, clock = [], Clock()
    reporter = ProgressReporter(sent.append, Stage.FINETUNE, has_finetune=True, clock=clock)
    reporter.resume(90, 100)
    for step in range(91, 95):
        clock.now_s += 2.0
        reporter.report(step, 100)
    assert (sent[0].step, sent[0].eta_s, sent[0].data) == (90, None, {"resumed_at": 90})
    assert [message.eta_s for message in sent[1:]] == pytest.approx([18.0, 16.0, 14.0, 12.0])
    assert all(message.data["resumed_at"] == 90 for message in sent)
