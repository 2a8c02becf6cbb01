"""Statistics of BatchNorm, measured anew."""

import copy

import pytest
import torch
from torch import nn

from tests.worker.training.recoveries import make_model, make_split
from worker.training.batchnorm import refresh_batchnorm, refresh_if_better

BATCHES = [make_split().take(torch.arange(start, start + 24)).inputs for start in range(0, 96, 24)]


def test_the_statistics_are_the_mean_over_the_batches():
    norm = nn.BatchNorm2d(1).eval()
    refresh_batchnorm(norm, BATCHES)
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in BATCHES])
    assert torch.allclose(norm.running_mean, means.mean(dim=0), atol=1e-6)


def test_what_they_were_before_does_not_matter_and_nothing_else_changes():
    one, other = make_model(), make_model()
    with torch.no_grad():
        for norm in (m for m in other.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.fill_(5.0)
    for module in (one, other):
        refresh_batchnorm(module, BATCHES)
    ours, theirs = one.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    parameters = dict(make_model().named_parameters())
    assert all(torch.equal(p, parameters[name]) for name, p in one.named_parameters())
    norms = [m for m in one.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 and not norm.training for norm in norms)
    assert not one.training


def test_a_model_without_batchnorm_is_not_run():
    model = nn.Linear(2, 2)
    before = copy.deepcopy(model.state_dict())
    refresh_batchnorm(model, [torch.zeros(1, 3)])  # a shape that it could not take
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize("is_lower", [True, False])
def test_statistics_are_refreshed_where_that_lowers_the_loss_and_nowhere_else(is_lower):
    model, refreshed = make_model(), make_model()
    before = copy.deepcopy(model.state_dict())
    refresh_batchnorm(refreshed, BATCHES)
    losses = iter([1.0, 0.5] if is_lower else [1.0, 1.0])
    assert refresh_if_better(model, BATCHES, lambda: next(losses)) is is_lower
    expected = refreshed.state_dict() if is_lower else before
    assert all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)


def test_no_loss_is_asked_for_of_a_model_without_batchnorm():
    assert refresh_if_better(nn.Linear(2, 2), BATCHES, lambda: pytest.fail("it was asked for")) is False
