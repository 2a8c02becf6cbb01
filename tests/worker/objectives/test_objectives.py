"""Objectives: what they train for is what they record, and a perfect student has nothing to learn."""

import math

import pytest
import torch
from torch.nn import functional

from worker.objectives.registry import tasks

B, T, V = 3, 5, 7


def draw(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if name == "language-modeling":
        return torch.randn(B, T, V, generator=generator), torch.randint(0, V, (B, T), generator=generator)
    if name == "regression":
        return torch.randn(B, 1, generator=generator), torch.randn(B, generator=generator)
    return torch.randn(B, V, generator=generator), torch.randint(0, V, (B,), generator=generator)


@pytest.mark.parametrize("name", tasks())
def test_the_loss_of_equal_halves_is_the_mean_of_their_losses(name):
    objective = tasks()[name].objective
    logits, targets = draw(name)
    whole = objective.loss(logits, targets)
    parts = torch.stack([objective.loss(logits[i : i + 1], targets[i : i + 1]) for i in range(B)])
    assert torch.allclose(whole, parts.mean())


@pytest.mark.parametrize("name", tasks())
def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn(name):
    logits, targets = draw(name)
    objective = tasks()[name].objective
    assert objective.distill(logits, logits, targets, temperature=2.0).abs() < 1e-6
    assert objective.distill(logits + torch.randn_like(logits), logits, targets, temperature=2.0) > 0


@pytest.mark.parametrize("name", tasks())
def test_records_have_one_row_a_sample_and_join_in_order(name):
    logits, targets = draw(name)
    objective = tasks()[name].objective
    whole = objective.record(logits, targets)
    parts = [objective.record(logits[i : i + 1], targets[i : i + 1]) for i in range(B)]
    for key, values in whole.items():
        assert len(values) == B
        assert torch.allclose(values, torch.cat([part[key] for part in parts]))


@pytest.mark.parametrize("name", tasks())
def test_each_task_names_the_metric_that_is_reported_first(name):
    assert tasks()[name].metrics[0] in ("accuracy", "perplexity", "mse")


def test_the_recorded_likelihood_is_the_loss_over_all_tokens():
    logits, targets = draw("language-modeling")
    objective = tasks()["language-modeling"].objective
    records = objective.record(logits, targets)
    assert (records["nll"].dtype, records["tokens"].tolist()) == (torch.float64, [T - 1] * B)
    mean = records["nll"].sum() / records["tokens"].sum()
    assert float(mean) == pytest.approx(float(objective.loss(logits, targets)), rel=1e-6)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary():
    # Uniform answers: -log(1/V) a token, whatever comes next.
    records = tasks()["language-modeling"].objective.record(torch.zeros(B, T, V), torch.zeros(B, T).long())
    assert float((records["nll"] / records["tokens"]).exp().mean()) == pytest.approx(V)


def test_the_answer_at_a_token_is_for_the_token_after_it():
    targets = torch.tensor([[0, 3, 1, 2]])
    logits = functional.one_hot(torch.tensor([[3, 1, 2, 0]]), 4) * 100.0
    assert tasks()["language-modeling"].objective.loss(logits, targets) < 1e-6


def test_softening_follows_the_temperature_of_hinton():
    logits, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    p = 1 / (1 + math.exp(-1.0))  # the teacher's first class at temperature 2
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    found = tasks()["text-classification"].objective.distill(
        logits, teacher, torch.tensor([0]), temperature=2.0
    )
    assert float(found) == pytest.approx(expected)


def test_the_error_of_regression_is_squared():
    logits, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])
    objective = tasks()["regression"].objective
    assert float(objective.loss(logits, targets)) == 2.5
    records = objective.record(logits, targets)
    assert records["prediction"].tolist() == [1.0, 3.0]
    assert records["truth"].tolist() == [0.0, 1.0]
