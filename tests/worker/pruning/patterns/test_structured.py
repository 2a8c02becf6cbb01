"""Neurons, filters, channels and layers: what belongs together, along which dimension."""

import torch
from torch import Tensor, nn

from tests.worker.pruning.test_layers import Conv1D
from worker.pruning import Pruner, prune


def half(pattern: str) -> dict[str, object]:
    return {"pattern": {"name": pattern}, "target": {"value": 0.5}}


def set_weight(module: nn.Module, weight: Tensor) -> nn.Module:
    with torch.no_grad():
        module.weight.copy_(weight)
    return module


def refused(model: nn.Module, pattern: str) -> dict[str, str | None]:
    pruner = Pruner(model, half(pattern))
    return {layer.module_name: layer.why_not for layer in pruner.layers if layer.name.endswith("weight")}


BOTH = nn.ModuleDict({"conv": nn.Conv2d(2, 2, 1), "fc": nn.Linear(2, 2)})


def test_a_neuron_is_a_row_of_a_linear_layer() -> None:
    model = set_weight(nn.Linear(2, 4), torch.tensor([[1.0, 1], [0, 9], [2, 2], [5, 5]]))
    assert prune(model, half("neuron"))["weight"].long().tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]


def test_a_neuron_of_a_transposed_layer_is_a_column() -> None:
    model = nn.ModuleDict({"c": set_weight(Conv1D(4, 2), torch.tensor([[1.0, 0, 2, 5], [1, 9, 2, 5]]))})
    assert prune(model, half("neuron"))["c.weight"].long().tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]


def test_a_filter_is_an_output_channel_of_a_convolution() -> None:
    model = set_weight(nn.Conv2d(1, 2, (1, 2)), torch.tensor([[3.0, 3], [2, 3]]).reshape(2, 1, 1, 2))
    assert prune(model, half("filter"))["weight"].reshape(2, 2).long().tolist() == [[1, 1], [0, 0]]


def test_a_channel_is_an_input_channel_of_a_convolution() -> None:
    model = set_weight(nn.Conv2d(2, 2, 1), torch.tensor([[1.0, 5], [2, 0]]).reshape(2, 2, 1, 1))
    assert prune(model, half("channel"))["weight"].reshape(2, 2).long().tolist() == [[0, 1], [0, 1]]


def test_a_channel_of_a_grouped_convolution_is_read_by_its_own_group_alone() -> None:
    # Two groups of two channels and two filters: rows are filters, columns the channels of their group.
    weight = torch.tensor([[1.0, 5], [1, 5], [7, 2], [7, 2]]).reshape(4, 2, 1, 1)
    model = set_weight(nn.Conv2d(4, 4, 1, groups=2), weight)
    mask = prune(model, half("channel"))["weight"]
    assert mask.reshape(4, 2).long().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_a_pruned_channel_makes_the_output_independent_of_that_input() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    mask = prune(model, half("channel"))["weight"]  # [6, 2, 3, 3]
    dead = ~mask.reshape(2, 3, 2, 9).any(dim=(1, 3)).reshape(4)
    x = torch.randn(1, 4, 5, 5)
    assert dead.sum() == 2
    assert torch.equal(model(x), model(x * ~dead[None, :, None, None]))


def test_neurons_filters_and_channels_say_why_they_leave_a_layer_out() -> None:
    assert refused(BOTH, "neuron") == {
        "conv": "is a convolution: its outputs are filters, not neurons",
        "fc": None,
    }
    assert refused(BOTH, "filter") == {"conv": None, "fc": "is linear: its outputs are neurons, not filters"}
    assert refused(BOTH, "channel") == {"conv": None, "fc": "is linear: it has inputs, not input channels"}


def test_whole_layers_go_by_their_mean_score() -> None:
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in "abcd"})
    for value, module in zip((4.0, 1.0, 3.0, 2.0), model.values(), strict=True):
        nn.init.constant_(module.weight, value)
    masks = prune(model, half("layer"))
    assert masks.sparsities() == {"a.weight": 0.0, "b.weight": 1.0, "c.weight": 0.0, "d.weight": 1.0}


def test_layers_of_other_sizes_are_pruned_to_the_nearest_that_their_ranking_reaches() -> None:
    model = nn.ModuleDict({"a": nn.Linear(10, 1), "b": nn.Linear(10, 2), "c": nn.Linear(10, 4)})
    for value, module in zip((1.0, 2.0, 3.0), model.values(), strict=True):
        nn.init.constant_(module.weight, value)
    # In order: 10, 30 and 70 weights. A half is 35, nearest to 30.
    assert prune(model, half("layer")).sparsities() == {"a.weight": 1.0, "b.weight": 1.0, "c.weight": 0.0}
