"""The networks for ImageNet: names, shapes and counts of torchvision's, and that sliced weights still run."""

import pytest
import torch
from torch import nn

from tests.worker.models.tiny import TINY, make_tiny
from worker.measure.macs import count_macs
from worker.models.registry import Network, build

# Parameters and multiply-accumulates of one image of 224x224, in units of 1e9, as the documentation of
# torchvision's weights has them; and how many tensors a state dict has.
PUBLISHED = {
    "resnet-18": (11_689_512, 1.814, 122),
    "resnet-34": (21_797_672, 3.664, 218),
    "resnet-50": (25_557_032, 4.089, 320),
    "vgg-11-bn": (132_868_840, 7.609, 62),
    "vgg-16-bn": (138_365_992, 15.47, 97),
    "vgg-19-bn": (143_678_248, 19.632, 118),
    "mobilenet-v2": (3_504_872, 0.301, 314),
    "densenet-121": (7_978_856, 2.834, 727),
    "efficientnet-b0": (5_288_548, 0.386, 360),
}

SHAPES = {
    "resnet-18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.running_mean": (128,),
        "layer4.1.bn2.bias": (512,),
        "fc.weight": (1000, 512),
        "fc.bias": (1000,),
    },
    "resnet-34": {"layer3.5.conv2.weight": (256, 256, 3, 3), "layer4.2.bn2.num_batches_tracked": ()},
    "resnet-50": {
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.conv2.weight": (64, 64, 3, 3),
        "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer3.5.bn3.weight": (1024,),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
        "fc.weight": (1000, 2048),
    },
    "vgg-11-bn": {"features.4.weight": (128, 64, 3, 3), "features.25.weight": (512, 512, 3, 3)},
    "vgg-16-bn": {
        "features.0.weight": (64, 3, 3, 3),
        "features.0.bias": (64,),
        "features.1.running_mean": (64,),
        "features.40.weight": (512, 512, 3, 3),
        "features.41.weight": (512,),
        "classifier.0.weight": (4096, 25_088),
        "classifier.3.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
    },
    "vgg-19-bn": {"features.49.weight": (512, 512, 3, 3), "features.50.bias": (512,)},
    "mobilenet-v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.weight": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.weight": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.running_var": (24,),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (1000, 1280),
    },
    "densenet-121": {
        "features.conv0.weight": (64, 3, 7, 7),
        "features.norm0.weight": (64,),
        "features.denseblock1.denselayer1.norm1.weight": (64,),
        "features.denseblock1.denselayer1.conv1.weight": (128, 64, 1, 1),
        "features.denseblock1.denselayer1.norm2.weight": (128,),
        "features.denseblock1.denselayer1.conv2.weight": (32, 128, 3, 3),
        "features.denseblock1.denselayer6.norm1.weight": (224,),
        "features.transition1.norm.weight": (256,),
        "features.transition1.conv.weight": (128, 256, 1, 1),
        "features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3),
        "features.norm5.weight": (1024,),
        "classifier.weight": (1000, 1024),
    },
    "efficientnet-b0": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.0.block.0.0.weight": (32, 1, 3, 3),
        "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
        "features.1.0.block.1.fc2.bias": (32,),
        "features.1.0.block.2.0.weight": (16, 32, 1, 1),
        "features.2.0.block.0.0.weight": (96, 16, 1, 1),
        "features.2.0.block.1.0.weight": (96, 1, 3, 3),
        "features.2.0.block.2.fc1.weight": (4, 96, 1, 1),
        "features.2.0.block.3.1.weight": (24,),
        "features.6.3.block.1.0.weight": (1152, 1, 5, 5),
        "features.8.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (1000, 1280),
    },
}

# A convolution that leaves a block through one other: the tensors with its channels first (all of its own
# and those of its norm, of the depthwise convolution behind it and its norm), then those with them second.
INNER = {
    **{f"resnet-{d}": (["layer2.0.conv1", "layer2.0.bn1"], ["layer2.0.conv2"]) for d in (18, 34, 50)},
    "vgg-11-bn": (["features.8", "features.9"], ["features.11"]),
    "vgg-16-bn": (["features.0", "features.1"], ["features.3"]),
    "vgg-19-bn": (["features.0", "features.1"], ["features.3"]),
    "mobilenet-v2": ([f"features.2.conv.{i}" for i in ("0.0", "0.1", "1.0", "1.1")], ["features.2.conv.2"]),
    "densenet-121": (
        ["features.denseblock2.denselayer2.conv1", "features.denseblock2.denselayer2.norm2"],
        ["features.denseblock2.denselayer2.conv2"],
    ),
    "efficientnet-b0": (
        [f"features.2.0.block.{i}" for i in ("0.0", "0.1", "1.0", "1.1", "2.fc2")],
        ["features.2.0.block.2.fc1", "features.2.0.block.3.0"],
    ),
}


def build_whole(name: str) -> Network:
    """Build the published network without the memory of its weights."""
    with torch.device("meta"):
        return build({"name": name})


def build_trained(name: str) -> nn.Module:
    """Build a small network whose BatchNorms have seen data, so that none is the identity."""
    torch.manual_seed(0)
    module = build(make_tiny(name, classes=5)).module
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.uniform_(-0.5, 0.5)
    return module


def set_zero(module: nn.Module, layers: list[str], channels: torch.Tensor) -> None:
    for layer in map(module.get_submodule, layers):
        with torch.no_grad():
            layer.weight[channels] = 0.0
            if layer.bias is not None:
                layer.bias[channels] = 0.0


def keep(module: nn.Module, layers: list[str], kept: torch.Tensor, *, dim: int) -> None:
    """Slice weights, biases and running statistics; tell no layer how many channels it has left."""
    for layer in map(module.get_submodule, layers):
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.groups = len(kept)
        for key in ("weight",) if dim else ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(layer, key, None)
            if tensor is not None:
                sliced = tensor.detach().index_select(dim, kept)
                setattr(layer, key, nn.Parameter(sliced) if isinstance(tensor, nn.Parameter) else sliced)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_tensors_are_as_many_as_published(name):
    module = build_whole(name).module
    parameters, _, tensors = PUBLISHED[name]
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert len(module.state_dict()) == tensors


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_accumulates_are_as_many_as_published(name):
    network = build_whole(name)
    macs = count_macs(network.module, network.inputs.blank(1, "meta"))
    _, published, _ = PUBLISHED[name]
    assert macs.total / 1e9 == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_tensors_are_named_and_shaped_as_in_state_dicts_of_torchvision(name):
    state = build_whole(name).module.state_dict()
    assert {key: tuple(state[key].shape) for key in SHAPES[name]} == SHAPES[name]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [32, 65])
def test_a_network_takes_images_of_a_size_that_it_was_not_made_for(name, size):
    module = build(make_tiny(name, classes=5)).module
    assert module(torch.rand(2, 3, size, size)).shape == (2, 5)


@pytest.mark.parametrize("name", TINY)
def test_every_tensor_takes_part_in_the_answer(name):
    module = build(make_tiny(name, classes=5)).module.train()
    module(torch.rand(4, 3, 64, 64)).square().sum().backward()
    assert [key for key, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", INNER)
def test_removing_channels_that_are_zero_changes_no_answer(name):
    module = build_trained(name)
    out, into = INNER[name]
    channels = torch.arange(len(module.get_submodule(out[0]).weight))
    # fc2's zeros would give the factor 1/2; it scales a channel that is zero.
    set_zero(module, out, channels[1::2])
    x = torch.rand(2, 3, 64, 64)
    masked = module(x)
    keep(module, out, channels[::2], dim=0)
    keep(module, into, channels[::2], dim=1)
    torch.testing.assert_close(module(x), masked)
