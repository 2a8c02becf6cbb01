"""EfficientNet-B0: inverted residuals with squeeze-and-excitation.

Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table 1; the
excitation is that of Hu et al. 2018, "Squeeze-and-excitation networks", figure 2. Training with stochastic
depth is left out: it has no parameters and does nothing in evaluation mode.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from worker.models.imagenet import ImageNetParams, initialise, make_network
from worker.models.mobilenet_v2 import make_convolution, round_channels
from worker.models.registry import Network, register


@dataclass(frozen=True)
class _Stage:
    """`expansion` is how many times wider a block is inside; `stride` is that of the first of `blocks`."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    blocks: int


_STAGES = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)
_STEM = 32
# The head has four times the channels of the last stage.
_HEAD_EXPANSION = 4


class EfficientNetParams(ImageNetParams):
    """`width` multiplies the channels, rounded to multiples of 8; `depth` the blocks of a stage, rounded up.

    With 1.0 and 1.1 it is B1, with 1.1 and 1.2 B2, with 1.2 and 1.4 B3, with 1.4 and 1.8 B4.
    """

    width: float = Field(default=1.0, ge=0.05, le=4.0)
    depth: float = Field(default=1.0, ge=0.05, le=4.0)


class SqueezeExcitation(nn.Module):
    """Scale each channel by what the means of all say: [n, c, h, w] → the same."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = functional.silu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))  # [n, squeezed, 1, 1]
        return x * torch.sigmoid(self.fc2(scale))


class MBConv(nn.Module):
    """Expand, filter each channel, excite, project: [n, c_in, h, w] → [n, c_out, h/stride, w/stride]."""

    def __init__(self, c_in: int, c_out: int, stage: _Stage, *, stride: int) -> None:
        super().__init__()
        hidden = c_in * stage.expansion
        expand = [] if stage.expansion == 1 else [make_convolution(c_in, hidden, 1, activation=nn.SiLU)]
        self.block = nn.Sequential(
            *expand,
            make_convolution(hidden, hidden, stage.kernel, stride=stride, depthwise=True, activation=nn.SiLU),
            SqueezeExcitation(hidden, max(1, c_in // 4)),
            make_convolution(hidden, c_out, 1),
        )
        self._is_residual = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return x + out if self._is_residual else out


class EfficientNet(nn.Module):
    """[n, c, h, w] → [n, classes] through features [n, 1280, h/32, w/32]."""

    def __init__(self, params: EfficientNetParams) -> None:
        super().__init__()
        c_in = round_channels(_STEM * params.width)
        layers = [make_convolution(params.in_channels, c_in, 3, stride=2, activation=nn.SiLU)]
        for stage in _STAGES:
            c_out = round_channels(stage.channels * params.width)
            layers.append(_make_stage(stage, c_in, c_out, blocks=math.ceil(stage.blocks * params.depth)))
            c_in = c_out
        head = _HEAD_EXPANSION * c_in
        self.features = nn.Sequential(*layers, make_convolution(c_in, head, 1, activation=nn.SiLU))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, params.classes))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x).mean(dim=(2, 3))  # [n, head]
        return self.classifier(x)  # type: ignore[no-any-return]  # a module's call is Any


def _make_stage(stage: _Stage, c_in: int, c_out: int, *, blocks: int) -> nn.Sequential:
    widths = [c_in, *[c_out] * blocks]
    return nn.Sequential(
        *(
            MBConv(before, after, stage, stride=stage.stride if i == 0 else 1)
            for i, (before, after) in enumerate(pairwise(widths))
        )
    )


@register(
    "efficientnet-b0",
    EfficientNetParams,
    source="Tan and Le 2019, EfficientNet: rethinking model scaling, arXiv:1905.11946, table 1",
    summary="EfficientNet-B0: inverted residuals with squeeze-and-excitation.",
)
def build_efficientnet_b0(params: EfficientNetParams) -> Network:
    return make_network(EfficientNet(params), params)
