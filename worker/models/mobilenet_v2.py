"""MobileNetV2: inverted residuals with depthwise convolutions.

Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", table 2.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from pydantic import Field
from torch import nn

from worker.models.imagenet import ImageNetParams, initialise, make_network
from worker.models.registry import Network, register

# Table 2: how many times wider the block is inside, channels out, blocks, stride of the first.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM = 32
_HEAD = 1280


class MobileNetV2Params(ImageNetParams):
    """`width` multiplies the channels, rounded to multiples of 8; those of the head only above 1."""

    width: float = Field(default=1.0, ge=0.05, le=4.0)


class InvertedResidual(nn.Module):
    """Wide inside, narrow at both ends, where nothing is rectified: [n, c_in, h, w] → [n, c_out, h', w']."""

    def __init__(self, c_in: int, c_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        expand = [] if expansion == 1 else [make_convolution(c_in, hidden, 1, activation=nn.ReLU6)]
        self.conv = nn.Sequential(
            *expand,
            make_convolution(hidden, hidden, 3, stride=stride, depthwise=True, activation=nn.ReLU6),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self._is_residual = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x)
        return x + out if self._is_residual else out


class MobileNetV2(nn.Module):
    """[n, c, h, w] → [n, classes] through features [n, 1280, h/32, w/32]."""

    def __init__(self, params: MobileNetV2Params) -> None:
        super().__init__()
        c_in = round_channels(_STEM * params.width)
        layers: list[nn.Module] = [
            make_convolution(params.in_channels, c_in, 3, stride=2, activation=nn.ReLU6)
        ]
        for expansion, channels, blocks, stride in _STAGES:
            widths = [c_in, *[round_channels(channels * params.width)] * blocks]
            for i, (before, after) in enumerate(pairwise(widths)):
                layers.append(
                    InvertedResidual(before, after, stride=stride if i == 0 else 1, expansion=expansion)
                )
            c_in = widths[-1]
        head = round_channels(_HEAD * max(1.0, params.width))
        self.features = nn.Sequential(*layers, make_convolution(c_in, head, 1, activation=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, params.classes))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x).mean(dim=(2, 3))  # [n, head]
        return self.classifier(x)  # type: ignore[no-any-return]  # a module's call is Any


def round_channels(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8, that is no more than 10 % below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def make_convolution(
    c_in: int,
    c_out: int,
    kernel: int,
    *,
    stride: int = 1,
    depthwise: bool = False,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Return a convolution without bias that keeps the sides at stride 1, its norm and its activation.

    A depthwise one has a filter of its own for each channel.
    """
    convolution = nn.Conv2d(
        c_in,
        c_out,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=c_in if depthwise else 1,
        bias=False,
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(c_out), *([activation()] if activation else []))


@register(
    "mobilenet-v2",
    MobileNetV2Params,
    source="Sandler et al. 2018, MobileNetV2: inverted residuals and linear bottlenecks, table 2",
    summary="MobileNetV2: inverted residuals with depthwise convolutions.",
)
def build_mobilenet_v2(params: MobileNetV2Params) -> Network:
    return make_network(MobileNetV2(params), params)
