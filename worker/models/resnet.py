"""Residual networks for small images: CIFAR ResNet-20/32/44/56, and a tiny one for 8x8 images.

He et al. 2016, "Deep residual learning for image recognition", section 4.2: three groups of basic blocks of
16, 32 and 64 filters, and shortcuts without parameters (option A): every second pixel, the new channels
zero, half of them before and half after the old ones.
"""

from collections import OrderedDict

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from worker.models.registry import Network, Params, image_network, register

_SOURCE = "He et al. 2016, Deep residual learning for image recognition, section 4.2"


class ResNetParams(Params):
    in_channels: int = Field(default=3, ge=1, le=64)
    image_size: int = Field(default=32, ge=4, le=512)
    classes: int = Field(default=10, ge=1, le=100_000)


class ResNet8x8Params(ResNetParams):
    """`width` is the number of filters of the first group; each later group has twice as many."""

    in_channels: int = Field(default=1, ge=1, le=64)
    image_size: int = Field(default=8, ge=4, le=512)
    width: int = Field(default=16, ge=4, le=256, multiple_of=4)


class Shortcut(nn.Module):
    """Every `stride`-th pixel, channels of zeros around: [n, c_in, h, w] → [n, c_out, h/stride, w/stride].

    The counts of zeros are attributes, since channels of either side of a block can be removed.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels_before = (c_out - c_in) // 2
        self.channels_after = c_out - c_in - self.channels_before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.channels_before or self.channels_after:
            x = functional.pad(x, (0, 0, 0, 0, self.channels_before, self.channels_after))
        return x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [n, c_in, h, w] → [n, c_out, h/stride, w/stride]."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = Shortcut(c_in, c_out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))  # [n, c_out, h/stride, w/stride]
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Three groups of `blocks` basic blocks: [n, in_channels, h, w] → [n, classes]."""

    def __init__(self, params: ResNetParams, *, blocks: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(params.in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _group(width, width, stride=1, blocks=blocks)
        self.layer2 = _group(width, 2 * width, stride=2, blocks=blocks)
        self.layer3 = _group(2 * width, 4 * width, stride=2, blocks=blocks)
        self.linear = nn.Linear(4 * width, params.classes)
        _initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))  # [n, width, h, w]
        x = self.layer3(self.layer2(self.layer1(x)))  # [n, 4 width, h/4, w/4]
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # a module's call is Any


def _group(c_in: int, c_out: int, *, stride: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(c_in, c_out, stride)
    rest = [BasicBlock(c_out, c_out, 1) for _ in range(blocks - 1)]
    return nn.Sequential(OrderedDict((str(i), block) for i, block in enumerate([first, *rest])))


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)


def _network(module: nn.Module, params: ResNetParams) -> Network:
    return image_network(module, (params.in_channels, params.image_size, params.image_size), params.classes)


def _register_cifar(depth: int) -> None:
    summary = f"CIFAR ResNet with {depth} layers: {(depth - 2) // 6} blocks a group, shortcuts of option A."

    @register(f"resnet-{depth}", ResNetParams, source=_SOURCE, summary=summary)
    def build(params: ResNetParams) -> Network:
        return _network(ResNet(params, blocks=(depth - 2) // 6, width=16), params)


for _depth in (20, 32, 44, 56):
    _register_cifar(_depth)


@register(
    "resnet8x8",
    ResNet8x8Params,
    source=_SOURCE + ", made smaller",
    summary="ResNet with one block a group, for 8x8 images of one channel.",
)
def build_resnet8x8(params: ResNet8x8Params) -> Network:
    return _network(ResNet(params, blocks=1, width=params.width), params)
