"""Counting multiply-accumulates, against hand-made counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.worker.models.tiny import make_tiny
from worker.measure.macs import count_effective_macs, count_macs
from worker.models.registry import architectures, build


def count(module: nn.Module, *shape: int):
    macs = count_macs(module, torch.zeros(1, *shape))
    return macs, count_effective_macs(macs, dict(module.named_parameters()))


def test_lenet_5_has_the_macs_of_its_layers():
    macs, _ = count(build({"name": "lenet-5"}).module, 1, 28, 28)
    assert dict(macs.by_weight) == {
        "conv1.weight": 24 * 24 * 20 * (5 * 5 * 1),  # 28 - 4 = 24 positions a side
        "conv2.weight": 8 * 8 * 50 * (5 * 5 * 20),  # pooled to 12, minus 4
        "fc1.weight": 800 * 500,
        "fc2.weight": 500 * 10,
    }
    assert macs.total == 2_293_000


def test_resnet_20_has_the_published_41_million_macs():
    macs, _ = count(build({"name": "resnet-20"}).module, 3, 32, 32)
    # He et al. 2016 leave 0.04 GFLOPs for the 20-layer net; option A adds nothing.
    assert macs.total == 40_551_040
    assert macs.by_weight["bn1.weight"] == 0


@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 2), st.integers(0, 1))
def test_a_convolution_multiplies_each_weight_once_a_position(groups, width, kernel, stride, padding):
    conv = nn.Conv2d(groups * width, groups * 2, kernel, stride=stride, padding=padding, groups=groups)
    model = nn.Sequential(conv)
    side = (8 + 2 * padding - kernel) // stride + 1
    macs, effective = count(model, groups * width, 8, 8)
    assert macs.total == effective == side * side * conv.weight.numel()


@given(st.integers(0, 12))
def test_a_zero_weight_takes_away_its_products_and_no_others(zeros):
    conv = nn.Conv2d(1, 3, 2)
    with torch.no_grad():
        conv.weight.fill_(1.0).view(-1)[:zeros] = 0.0
    macs, effective = count(nn.Sequential(conv, nn.Flatten(), nn.Linear(27, 4)), 1, 4, 4)
    assert macs.total == 9 * 12 + 27 * 4
    assert effective == 9 * (12 - zeros) + 27 * 4


def test_products_outside_of_layers_are_counted_too():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            q = self.query(x)  # [1, 6, 4]
            return q @ x.transpose(1, 2)  # [1, 6, 6]

    macs, effective = count(Attention(), 6, 4)
    assert macs.rest == 6 * 6 * 4
    assert macs.total == effective == 6 * 4 * 4 + 6 * 6 * 4


@pytest.mark.parametrize("name", architectures())
def test_every_architecture_has_as_many_as_torchs_own_counter_says(name):
    network = build(make_tiny(name, image_size=32))
    macs, _ = count(network.module, *network.inputs.shape)
    # Attention as plain products: for the kernel of a CPU torch's counter has no formula.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.module(torch.zeros(1, *network.inputs.shape))
    assert 2 * macs.total == counter.get_total_flops()


@pytest.mark.parametrize("name", ["lenet-300-100", "resnet8x8"])
def test_counting_leaves_the_model_as_it_was(name):
    network = build({"name": name})
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    count(network.module, *network.inputs.shape)
    assert all(torch.equal(value, before[key]) for key, value in network.module.state_dict().items())
