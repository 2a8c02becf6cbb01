"""Which tensors of a model can be pruned, and why not the others."""

import torch
from torch import nn

from worker.pruning.layers import Layer, find_layers


class Conv1D(nn.Module):
    """As in transformers: a linear layer whose weight is [in, out]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


def by_name(model: nn.Module) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(model)}


def test_weights_of_linear_layers_and_convolutions_are_prunable() -> None:
    model = nn.ModuleList(
        [nn.Linear(2, 3), nn.Conv1d(1, 1, 1), nn.Conv2d(2, 4, 3, groups=2), nn.Conv3d(1, 1, 1)]
    )
    layers = by_name(model)
    assert [name for name, layer in layers.items() if layer.is_prunable] == [f"{i}.weight" for i in range(4)]
    assert layers["2.weight"].convolution_groups == 2
    assert layers["0.weight"].convolution_groups == 0


def test_every_parameter_is_listed_and_those_left_out_say_why() -> None:
    model = nn.ModuleDict(
        {
            "norm": nn.BatchNorm2d(2),
            "embed": nn.Embedding(3, 2),
            "fc": nn.Linear(2, 2),
            "up": nn.ConvTranspose2d(1, 1, 2),
            "attend": nn.MultiheadAttention(2, 1),
            "none": nn.Linear(0, 2),
        }
    )
    layers = by_name(model)
    assert set(layers) == set(dict(model.named_parameters()))
    assert layers["norm.weight"].why_not == "belongs to a normalisation layer"
    assert layers["embed.weight"].why_not == "is an embedding"
    assert layers["fc.bias"].why_not == "is a bias"
    assert layers["up.weight"].why_not == "layers of type ConvTranspose2d are not pruned"
    assert layers["attend.in_proj_weight"].why_not == "layers of type MultiheadAttention are not pruned"
    assert layers["attend.out_proj.weight"].is_prunable
    assert layers["none.weight"].why_not == "is empty: its shape is (2, 0)"


def test_tied_weights_are_one_layer_under_their_first_name() -> None:
    model = nn.ModuleDict({"b": nn.Linear(2, 2), "a": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    model["a"].weight = model["b"].weight
    model["c"].weight = nn.Parameter(model["b"].weight.detach())  # another parameter, the same storage
    layers = by_name(model)
    assert layers["b.weight"].aliases == ("a.weight", "c.weight")
    assert {"a.weight", "c.weight"}.isdisjoint(layers)


def test_a_weight_tied_to_its_transpose_is_refused_under_both_names() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(6, 3), "decoder": nn.Linear(3, 6), "other": nn.Linear(6, 3)})
    model["decoder"].weight = nn.Parameter(model["encoder"].weight.detach().t())
    layers = by_name(model)
    assert layers["encoder.weight"].why_not == "shares its memory with decoder.weight in another layout"
    assert layers["decoder.weight"].why_not == "shares its memory with encoder.weight in another layout"
    assert layers["other.weight"].is_prunable


def test_parts_of_one_memory_that_do_not_overlap_are_layers_of_their_own() -> None:
    memory = torch.rand(30)
    model = nn.ModuleDict({"a": nn.Linear(3, 5, bias=False), "b": nn.Linear(5, 3, bias=False)})
    model["a"].weight = nn.Parameter(memory[:15].view(5, 3))
    model["b"].weight = nn.Parameter(memory[15:].view(3, 5))
    assert all(layer.is_prunable for layer in find_layers(model))


def test_a_weight_tied_to_an_embedding_is_refused() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 5, bias=False), "embed": nn.Embedding(5, 2)})
    model["embed"].weight = model["head"].weight
    (layer,) = find_layers(model)
    assert layer.why_not == "shares its tensor with embed.weight: is an embedding"


def test_the_conv1d_of_transformers_is_known_as_transposed() -> None:
    layer = by_name(nn.ModuleDict({"c_attn": Conv1D(6, 2)}))["c_attn.weight"]
    assert layer.is_prunable
    assert layer.shape == (2, 6)
    assert layer.output_first_shape == (6, 2)
    assert layer.input_dim == 0


def test_layers_come_sorted_by_name_however_the_model_is_put_together() -> None:
    one = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    other = nn.ModuleDict({"b": one["b"], "a": one["a"]})
    assert find_layers(one) == find_layers(other)


def test_integers_are_refused() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    (layer,) = find_layers(model)
    assert layer.why_not == "holds torch.int8, not floating-point numbers"
