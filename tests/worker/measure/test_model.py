"""Counting a whole model."""

import torch
from torch import nn

from worker.measure.model import measure_model
from worker.models.inputs import TextInput
from worker.models.registry import Network, build


def test_every_parameter_has_its_row_and_the_rows_add_up():
    network = build({"name": "resnet8x8", "params": {"width": 4}})
    measured = measure_model(network)
    parameters = dict(network.module.named_parameters())
    assert {name: tensor.shape for name, tensor in measured.tensors.items()} == {
        name: tuple(p.shape) for name, p in parameters.items()
    }
    assert measured.parameters == sum(p.numel() for p in parameters.values())
    assert sum(tensor.macs for tensor in measured.tensors.values()) == measured.macs


def test_zeros_are_counted_where_they_are():
    network = build({"name": "lenet-300-100"})
    dense = measure_model(network)
    with torch.no_grad():
        network.module.fc2.weight[:50] = 0.0  # half of 100 x 300
    pruned = measure_model(network)
    assert dense.tensors["fc2.weight"].nonzero - pruned.tensors["fc2.weight"].nonzero == 50 * 300
    assert dense.nonzero - pruned.nonzero == 50 * 300
    assert dense.effective_macs - pruned.effective_macs == 50 * 300
    assert pruned.macs == dense.macs
    assert pruned.weights_bytes == dense.weights_bytes


class Tied(nn.Module):
    """An embedding whose weight is the last layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids, attention_mask):
        return self.head(self.embedding(input_ids))


def test_a_tied_weight_is_one_tensor_that_costs_what_its_layers_cost():
    network = Network(Tied(), TextInput(max_tokens=5, vocabulary=7), 7, ("language-modeling",))
    measured = measure_model(network)
    assert list(measured.tensors) == ["embedding.weight"]
    assert measured.parameters == 21
    assert measured.macs == measured.tensors["embedding.weight"].macs == 5 * 21
    with torch.no_grad():
        network.module.head.weight[0] = 0.0  # one row of seven
    assert measure_model(network).effective_macs == 5 * 18
