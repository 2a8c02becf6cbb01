"""Buffers of a model that is run are what they were."""

import torch
from torch import Tensor, nn

from tests.worker.pruning.networks import ConvNet, batches
from worker.pruning.buffers import buffers_kept


class Positions(nn.Module):
    """Holds positions once for all samples, as vision models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.arange(4).expand(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positions


def test_statistics_are_those_from_before() -> None:
    model = ConvNet().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with buffers_kept(model):
        model(batches(model)[0][0])
        assert not torch.equal(model.bn1.running_mean, before["bn1.running_mean"])
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_buffer_that_repeats_one_row_stays_as_it_is() -> None:
    model = Positions()
    with buffers_kept(model):
        model(torch.zeros(2, 4))
    assert model.positions.tolist() == [[0, 1, 2, 3]] * 2
