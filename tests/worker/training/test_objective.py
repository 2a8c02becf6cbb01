"""The loss with and without a teacher."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from app.core.finetune import Distillation
from worker.objectives.classification import Classification
from worker.training.objective import compute_loss

seeds = st.integers(0, 10**6)
temperatures = st.floats(0.5, 20.0)


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = (3 * torch.randn(5, 4, generator=generator) for _ in range(2))
    return logits, torch.randint(0, 4, (5,), generator=generator), teacher


@given(seeds, temperatures)
def test_no_weight_on_the_teacher_leaves_cross_entropy(seed, temperature):
    logits, labels, teacher = draw(seed)
    settings = Distillation(alpha=0.0, temperature=temperature)
    loss = compute_loss(
        logits, labels, objective=Classification(), teacher_logits=teacher, distillation=settings
    )
    assert torch.allclose(loss, functional.cross_entropy(logits, labels))


@given(seeds, temperatures)
def test_agreeing_with_the_teacher_costs_nothing_and_anything_else_costs(seed, temperature):
    logits, labels, teacher = draw(seed)
    settings = Distillation(alpha=1.0, temperature=temperature)
    agreeing = compute_loss(
        teacher, labels, objective=Classification(), teacher_logits=teacher, distillation=settings
    )
    differing = compute_loss(
        logits, labels, objective=Classification(), teacher_logits=teacher, distillation=settings
    )
    assert abs(float(agreeing)) < 1e-4
    assert float(differing) > float(agreeing)


@given(seeds, temperatures, st.floats(0.0, 1.0))
def test_the_loss_is_hintons(seed, temperature, alpha):
    logits, labels, teacher = draw(seed)
    p = torch.softmax(teacher.double() / temperature, 1)
    q = torch.softmax(logits.double() / temperature, 1)
    soft = (p * (p.log() - q.log())).sum(1).mean()
    hard = -torch.log_softmax(logits.double(), 1)[torch.arange(5), labels].mean()
    expected = (1 - alpha) * hard + alpha * temperature**2 * soft
    settings = Distillation(alpha=alpha, temperature=temperature)
    loss = compute_loss(
        logits, labels, objective=Classification(), teacher_logits=teacher, distillation=settings
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-3, abs=1e-3)
