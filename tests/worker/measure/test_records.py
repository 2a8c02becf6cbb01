"""What is kept of each sample of a split."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from app.core.errors import NonfiniteAnswers
from worker.datasets.splits import Batch
from worker.measure.records import record_split
from worker.objectives.registry import find_task

CPU = torch.device("cpu")


class Numbers:
    """A split of rows of three numbers, the last first in batches; row i is of class i % 3."""

    name = "test"

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.y = x, torch.arange(len(x)) % 3
        self.order = torch.arange(len(x)).flip(0)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return (Batch(self.x[part], self.y[part]) for part in self.order.split(batch_size))


def record(module: nn.Module, x: torch.Tensor, *, batch_size: int = 4):
    objective = find_task("image-classification").objective
    return record_split(module, Numbers(x), objective, batch_size=batch_size, device=CPU)


def test_the_batch_size_changes_no_record_and_no_order():
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    one, many = (record(nn.Identity(), x, batch_size=size) for size in (1, 7))
    assert torch.equal(one["prediction"], x.argmax(1))
    assert torch.equal(one["truth"], torch.arange(10) % 3)
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_the_model_answers_as_it_does_in_use():
    module = nn.Sequential(nn.Dropout(0.9), nn.Identity()).train()
    x = torch.eye(3)
    assert torch.equal(record(module, x)["prediction"], torch.arange(3))
    assert not module.training


def test_answers_of_nan_are_no_answers():
    x = torch.eye(3)
    x[1, 1] = float("nan")
    with pytest.raises(NonfiniteAnswers, match="NaN"):
        record(nn.Identity(), x)


def test_a_record_that_is_not_finite_is_refused_by_name():
    class Squares:
        def record(self, logits, targets):
            return {"nll": logits.sum(dim=1) ** 2}

    with pytest.raises(NonfiniteAnswers, match="the split test give no finite nll"):
        record_split(nn.Identity(), Numbers(torch.full((4, 3), 1e30)), Squares(), batch_size=2, device=CPU)
