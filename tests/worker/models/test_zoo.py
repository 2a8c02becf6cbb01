"""The built-in architectures: names, shapes and counts that others publish."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from app.core.errors import UnknownArchitecture
from tests.worker.models.tiny import make_tiny
from worker.models.registry import Params, architectures, build, register
from worker.models.resnet import BasicBlock


@pytest.mark.parametrize("name", architectures())
def test_every_architecture_maps_its_input_to_its_classes(name):
    # On the meta device the largest costs neither memory nor time.
    with torch.device("meta"):
        network = build({"library": "secateur", "name": name})
        assert network.module(torch.rand(2, *network.inputs.shape)).shape == (2, network.outputs)
    assert not network.module.training


@pytest.mark.parametrize("name", architectures())
def test_every_architecture_takes_other_channels_sizes_and_classes(name):
    network = build(make_tiny(name, in_channels=2, image_size=32, classes=7))
    assert network.inputs.shape == (2, 32, 32)
    assert network.module(torch.rand(1, 2, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("name", architectures())
def test_one_output_is_a_number_and_several_are_classes(name):
    assert build(make_tiny(name, classes=1)).tasks == ("regression",)
    assert build(make_tiny(name, classes=2)).tasks == ("image-classification",)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Han et al. 2015, table 1: 267 K and 431 K.
        ("lenet-300-100", 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10),
        ("lenet-5", 25 * 20 + 20 + 20 * 25 * 50 + 50 + 800 * 500 + 500 + 500 * 10 + 10),
        # He et al. 2016, table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M; the exact counts are those of the
        # published re-implementations with option A.
        ("resnet-20", 269_722),
        ("resnet-32", 464_154),
        ("resnet-44", 658_586),
        ("resnet-56", 853_018),
    ],
)
def test_parameters_are_as_many_as_published(name, parameters):
    module = build({"name": name}).module
    assert sum(p.numel() for p in module.parameters()) == parameters


def test_resnet_20_names_its_tensors_as_published_state_dicts_do():
    state = build({"name": "resnet-20"}).module.state_dict()
    norms = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = {"conv1.weight", "linear.weight", "linear.bias"} | {f"bn1.{n}" for n in norms}
    for block in (f"layer{group}.{i}" for group in (1, 2, 3) for i in range(3)):
        expected |= {f"{block}.conv{k}.weight" for k in (1, 2)}
        expected |= {f"{block}.bn{k}.{n}" for k in (1, 2) for n in norms}
    assert set(state) == expected


@given(st.sampled_from([(4, 4, 1), (4, 8, 2), (6, 12, 2), (3, 9, 1)]), st.integers(0, 2**31))
def test_a_block_of_zero_filters_passes_its_shortcut_through(shape, seed):
    c_in, c_out, stride = shape
    block = BasicBlock(c_in, c_out, stride).eval()
    for layer in (block.conv1, block.conv2):
        torch.nn.init.zeros_(layer.weight)
    x = torch.rand(2, c_in, 8, 8, generator=torch.Generator().manual_seed(seed))
    # He et al. 2016, option A: every stride-th pixel, the new channels zero.
    before = (c_out - c_in) // 2
    expected = torch.zeros(2, c_out, 8 // stride, 8 // stride)
    expected[:, before : before + c_in] = x[:, :, ::stride, ::stride]
    assert torch.equal(block(x), functional.relu(expected))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UnknownArchitecture, match=r"'resnet-19'.*lenet-5.*resnet-20"):
        build({"library": "secateur", "name": "resnet-19"})


def test_an_unknown_library_is_refused():
    with pytest.raises(UnknownArchitecture, match="'timm'"):
        build({"library": "timm", "name": "resnet-20"})


@pytest.mark.parametrize("params", [{"depth": 3}, {"classes": 0}, {"classes": "10"}, {"image_size": 10**6}])
def test_a_wrong_parameter_is_refused_by_name(params):
    with pytest.raises(UnknownArchitecture, match=next(iter(params))):
        build({"name": "resnet-20", "params": params})


def test_a_second_builder_of_a_name_is_refused():
    with pytest.raises(ValueError, match="'lenet-5' is registered twice"):
        register("lenet-5", Params, source="", summary="")(lambda params: build({"name": "lenet-5"}))
