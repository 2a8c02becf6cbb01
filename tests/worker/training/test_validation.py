"""The judge: what is best, and when nothing is gained any more."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from app.core.finetune import EarlyStopping
from tests.worker.training.recoveries import ACCURACY, CPU, make_model, make_split
from worker.objectives.classification import Classification
from worker.training.metric import Metric
from worker.training.validation import Judge, Validation

ERROR = Metric("mse", 1)
values = st.lists(st.floats(-5, 5), min_size=1, max_size=8)


def listen(judge: Judge, heard: list[float]) -> Judge:
    for step, value in enumerate(heard):
        judge.hear(value, step=step, make_state=lambda step=step: {"step": step})
    return judge


@given(values, st.sampled_from([ACCURACY, ERROR]))
def test_the_best_is_the_first_that_none_beats(heard, metric):
    judge = listen(Judge(metric, keeps_best=True, stopping=None), heard)
    best = max(heard) if metric.higher_is_better else min(heard)
    assert judge.best == {"value": best, "step": heard.index(best), "state": {"step": heard.index(best)}}


@given(values, values, st.integers(1, 3))
def test_a_judge_that_is_restored_judges_the_same(before, after, patience):
    def make() -> Judge:
        return Judge(ACCURACY, keeps_best=True, stopping=EarlyStopping(patience=patience, min_delta=0.5))

    whole, resumed = listen(make(), before), make()
    resumed.load_state_dict(whole.state_dict())
    assert listen(resumed, after).state_dict() == listen(whole, after).state_dict()


def test_the_patience_ends_after_so_many_evaluations_without_enough_gain():
    judge = Judge(ACCURACY, keeps_best=False, stopping=EarlyStopping(patience=2, min_delta=0.1))
    said = []
    for value in (0.5, 0.55, 0.62, 0.65, 0.7):
        listen(judge, [value])
        said.append(judge.says_stop)
    assert said == [False, False, False, False, True]
    assert judge.best is None


def test_without_early_stopping_it_never_says_stop():
    assert not listen(Judge(ACCURACY, keeps_best=True, stopping=None), [1.0, 0.0, 0.0, 0.0, 0.0]).says_stop


def test_a_validation_is_the_metric_over_the_whole_split():
    module, split = make_model(), make_split("validation")
    found = Validation(split, Classification(), ACCURACY, 10, CPU).measure(module)
    images, labels = split.take(torch.arange(len(split)))
    assert found == float((module(images).argmax(1) == labels).float().mean())
