"""VGG networks with BatchNorm: 11, 16 and 19 layers with weights.

Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition", table 1
(A, D, E), with a BatchNorm after every convolution. The features are pooled to 7x7 whatever the size of the
image, so that the classifier fits.
"""

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from worker.models.imagenet import ImageNetParams, initialise, make_network
from worker.models.registry import Network, register

_POOLED_SIDE = 7
# Filters of each group in units of `width`.
_WIDTHS = (1, 2, 4, 8, 8)
# Convolutions of each group.
_DESIGNS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGGParams(ImageNetParams):
    """`width` is the number of filters of the first group, `hidden` the units of both hidden linear layers.

    Five times the sides are halved, so an image has 32 pixels a side at least.
    """

    image_size: int = Field(default=224, ge=32, le=2048)
    width: int = Field(default=64, ge=1, le=512)
    hidden: int = Field(default=4096, ge=1, le=16_384)


class VGG(nn.Module):
    """Five groups of 3x3 convolutions, then three linear layers: [n, c, h, w] → [n, classes]."""

    def __init__(self, params: VGGParams, convolutions: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = params.in_channels
        for factor, repeats in zip(_WIDTHS, convolutions, strict=True):
            for _ in range(repeats):
                c_out = factor * params.width
                layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
                c_in = c_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(c_in * _POOLED_SIDE**2, params.hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(params.hidden, params.hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(params.hidden, params.classes),
        )
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), _POOLED_SIDE)  # [n, 8 width, 7, 7]
        return self.classifier(x.flatten(1))  # type: ignore[no-any-return]  # a module's call is Any


def _register(depth: int) -> None:
    @register(
        f"vgg-{depth}-bn",
        VGGParams,
        source="Simonyan and Zisserman 2015, Very deep convolutional networks, arXiv:1409.1556, table 1",
        summary=f"VGG with {depth} layers, a BatchNorm after every convolution.",
    )
    def build(params: VGGParams) -> Network:
        return make_network(VGG(params, _DESIGNS[depth]), params)


for _depth in _DESIGNS:
    _register(_depth)
