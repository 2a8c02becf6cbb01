"""Activations are followed, in place too."""

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.removal.traps import Functional, conv, free_units, images, scrutinise


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.LeakyReLU(0.1, inplace=True), nn.ELU(inplace=True), nn.Mish(inplace=True)),
        *(nn.Hardsigmoid(inplace=True), nn.CELU(), nn.CELU(inplace=True), nn.SELU(inplace=True)),
        *(nn.Threshold(0.1, 0.0), nn.Threshold(0.1, 0.0, inplace=True), nn.LogSigmoid()),
        *(torch.sigmoid_, torch.tanh_),
    ],
    # Two processes have to call them the same, so no address may be in it.
    ids=lambda activation: getattr(activation, "__name__", str(activation)),
)
def test_channels_go_through_an_activation(activation: object) -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["b"](activation(layers["a"](x)))

    found = scrutinise(Functional(forward, a=conv(3, 8), b=conv(8, 2)), images())
    assert free_units(found, "a") == list(range(8))
