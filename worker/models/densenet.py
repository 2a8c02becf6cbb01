"""Densely connected networks: DenseNet-121.

Huang et al. 2017, "Densely connected convolutional networks", table 1: DenseNet-BC, whose layers first
narrow their input to four times what they add, and whose transitions halve the channels.

torchvision's weight files from before 2018 write `norm.1`, `conv.1`, `norm.2` and `conv.2` for what is
`norm1`, `conv1`, `norm2` and `conv2` here and in the `state_dict()` of the model that has loaded one.
"""

from collections import OrderedDict
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from worker.models.imagenet import ImageNetParams, initialise, make_network
from worker.models.registry import Network, register

_BOTTLENECK = 4


class DenseNetParams(ImageNetParams):
    """Each layer adds `growth_rate` channels to the `init_features` of the stem; `blocks` counts the layers.

    A list is taken for `blocks` as well: that is what JSON has.
    """

    growth_rate: int = Field(default=32, ge=1, le=256)
    init_features: int = Field(default=64, ge=2, le=512)
    blocks: tuple[Annotated[int, Field(strict=True, ge=1, le=64)], ...] = Field(
        default=(6, 12, 24, 16), min_length=1, max_length=6, strict=False
    )

    @model_validator(mode="after")
    def _leaves_a_pixel(self) -> Self:
        least = 2 ** (len(self.blocks) + 1)
        if self.image_size < least:
            raise ValueError(
                f"image_size {self.image_size} is too small for {len(self.blocks)} blocks: at least {least}"
            )
        return self


class DenseLayer(nn.Module):
    """What a layer adds: [n, c_in, h, w] → [n, growth, h, w]."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, _BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(_BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(_BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(functional.relu(self.norm1(x)))  # [n, 4 growth, h, w]
        return self.conv2(functional.relu(self.norm2(x)))  # type: ignore[no-any-return]  # a module's call


class DenseBlock(nn.Module):
    """Layers that each read all before: [n, c_in, h, w] → [n, c_in + layers growth, h, w]."""

    def __init__(self, c_in: int, *, layers: int, growth: int) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(c_in + i * growth, growth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = torch.cat((x, layer(x)), dim=1)
        return x


class DenseNet(nn.Module):
    """A stem that quarters the sides, dense blocks with transitions between: [n, c, h, w] → [n, classes]."""

    def __init__(self, params: DenseNetParams) -> None:
        super().__init__()
        channels, growth = params.init_features, params.growth_rate
        features = _make_stem(params.in_channels, channels)
        for i, layers in enumerate(params.blocks, start=1):
            features[f"denseblock{i}"] = DenseBlock(channels, layers=layers, growth=growth)
            channels += layers * growth
            if i < len(params.blocks):
                features[f"transition{i}"] = _make_transition(channels, channels // 2)
                channels //= 2
        features["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(features)
        self.classifier = nn.Linear(channels, params.classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.features(x)).mean(dim=(2, 3))  # [n, channels]
        return self.classifier(x)  # type: ignore[no-any-return]  # a module's call is Any


def _make_stem(c_in: int, c_out: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        conv0=nn.Conv2d(c_in, c_out, 7, stride=2, padding=3, bias=False),
        norm0=nn.BatchNorm2d(c_out),
        relu0=nn.ReLU(),
        pool0=nn.MaxPool2d(3, stride=2, padding=1),
    )


def _make_transition(c_in: int, c_out: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        norm=nn.BatchNorm2d(c_in),
        relu=nn.ReLU(),
        conv=nn.Conv2d(c_in, c_out, 1, bias=False),
        pool=nn.AvgPool2d(2),
    )
    return nn.Sequential(layers)


@register(
    "densenet-121",
    DenseNetParams,
    source="Huang et al. 2017, Densely connected convolutional networks, table 1",
    summary="DenseNet with 121 layers, each of which reads the outputs of all before it in its block.",
)
def build_densenet_121(params: DenseNetParams) -> Network:
    return make_network(DenseNet(params), params)
