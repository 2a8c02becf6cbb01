"""Residual networks for ImageNet: ResNet-18, ResNet-34 and ResNet-50.

He et al. 2016, "Deep residual learning for image recognition", table 1, with projections where the shape
changes (option B). In the bottleneck the 3x3 convolution has the stride, as in the checkpoints that are
shared; in the paper it is the first 1x1 convolution.
"""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from worker.models.imagenet import ImageNetParams, initialise, make_network
from worker.models.registry import Network, register


class ImageNetResNetParams(ImageNetParams):
    """`width` is the number of filters of the first convolution; each later group has twice as many."""

    width: int = Field(default=64, ge=1, le=512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [n, c_in, h, w] → [n, width, h/stride, w/stride]."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _make_shortcut(c_in, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: [n, c_in, h, w] → [n, 4 width, h/stride, w/stride]."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample = _make_shortcut(c_in, c_out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + self.downsample(x))


@dataclass(frozen=True)
class _Design:
    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]


_DESIGNS = {
    18: _Design(BasicBlock, (2, 2, 2, 2)),
    34: _Design(BasicBlock, (3, 4, 6, 3)),
    50: _Design(Bottleneck, (3, 4, 6, 3)),
}


class ImageNetResNet(nn.Module):
    """A stem that quarters the sides, four groups of blocks, the mean: [n, c, h, w] → [n, classes]."""

    def __init__(self, params: ImageNetResNetParams, design: _Design) -> None:
        super().__init__()
        width, expansion = params.width, design.block.expansion
        self.conv1 = nn.Conv2d(params.in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _make_group(design, 0, width, width)
        self.layer2 = _make_group(design, 1, width * expansion, 2 * width)
        self.layer3 = _make_group(design, 2, 2 * width * expansion, 4 * width)
        self.layer4 = _make_group(design, 3, 4 * width * expansion, 8 * width)
        self.fc = nn.Linear(8 * width * expansion, params.classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))  # [n, width, h/4, w/4]
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [n, 8 width expansion, h/32, w/32]
        return self.fc(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # a module's call is Any


def _make_group(design: _Design, group: int, c_in: int, width: int) -> nn.Sequential:
    first = design.block(c_in, width, 1 if group == 0 else 2)
    rest = (design.block(width * design.block.expansion, width, 1) for _ in range(design.blocks[group] - 1))
    return nn.Sequential(first, *rest)


def _make_shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out))


def _register(depth: int) -> None:
    @register(
        f"resnet-{depth}",
        ImageNetResNetParams,
        source="He et al. 2016, Deep residual learning for image recognition, table 1",
        summary=f"ImageNet ResNet with {depth} layers, projections as shortcuts (option B).",
    )
    def build(params: ImageNetResNetParams) -> Network:
        return make_network(ImageNetResNet(params, _DESIGNS[depth]), params)


for _depth in _DESIGNS:
    _register(_depth)
