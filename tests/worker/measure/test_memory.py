"""Peak memory of inference, against sums made by hand."""

import pytest
import torch
from torch import nn

from worker.measure.memory import measure_peak_bytes, sum_bytes
from worker.models.registry import build


def test_one_layer_holds_weights_input_and_output():
    # Weights 3·4 + 3, input 4, output 3: 22 floats.
    assert measure_peak_bytes(nn.Linear(4, 3), torch.zeros(1, 4)) == 22 * 4


def test_a_hidden_layer_is_alive_while_the_next_one_works():
    model = nn.Sequential(nn.Linear(10, 1000), nn.Linear(1000, 10))
    weights = 10 * 1000 + 1000 + 1000 * 10 + 10
    assert measure_peak_bytes(model, torch.zeros(1, 10)) == (weights + 10 + 1000 + 10) * 4


def test_what_is_no_longer_needed_is_not_counted():
    # The third activation comes when the first is gone: two of 100 floats are alive, never three.
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.ReLU(), nn.ReLU())
    model.register_parameter("anchor", nn.Parameter(torch.zeros(1)))
    assert measure_peak_bytes(model, torch.zeros(1, 100)) == (1 + 100 + 2 * 100) * 4


def test_working_in_place_and_viewing_cost_nothing():
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.ReLU(inplace=True), nn.Flatten())
    assert measure_peak_bytes(model, torch.zeros(1, 10)) == (100 + 10 + 10) * 4


def test_a_larger_batch_adds_input_and_activations_alone():
    model = nn.Linear(4, 3)
    one, five = (measure_peak_bytes(model, torch.zeros(n, 4)) for n in (1, 5))
    assert five - one == 4 * (4 + 3) * 4


@pytest.mark.parametrize("name", ["lenet-5", "resnet-20"])
def test_the_peak_is_the_same_every_time_and_above_the_weights(name):
    network = build({"name": name})
    state = network.module.state_dict()
    peaks = {measure_peak_bytes(network.module, network.inputs.blank(1)) for _ in range(3)}
    assert len(peaks) == 1
    assert peaks.pop() > sum_bytes(state.values())


def test_zeros_weigh_as_much_as_other_numbers():
    assert sum_bytes([torch.zeros(10), torch.ones(10, dtype=torch.int64)]) == 40 + 80
