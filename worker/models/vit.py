"""A small vision transformer: the zoo's network with attention heads.

Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1, with the mean of all patches in
place of the class token (Zhai et al. 2022, section 3.2).
"""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from worker.models.registry import Network, Params, image_network, register


class ViTParams(Params):
    """`width` is divided among `heads`; the image is cut into squares of `patch_size`."""

    in_channels: int = Field(default=1, ge=1, le=64)
    image_size: int = Field(default=8, ge=4, le=512)
    patch_size: int = Field(default=2, ge=1, le=64)
    classes: int = Field(default=10, ge=1, le=100_000)
    width: int = Field(default=64, ge=8, le=4096)
    depth: int = Field(default=4, ge=1, le=64)
    heads: int = Field(default=4, ge=1, le=64)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class Attention(nn.Module):
    """Self-attention with a matrix for each projection: [n, patches, width] → the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        # Heads can be removed, their size stays.
        self.head_size = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, patches, _ = x.shape
        shape = (n, patches, -1, self.head_size)
        query, key, value = (
            projection(x).view(shape).transpose(1, 2)  # [n, heads, patches, head size]
            for projection in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Images [n, channels, size, size] → logits [n, classes]."""

    def __init__(self, params: ViTParams) -> None:
        super().__init__()
        patches = (params.image_size // params.patch_size) ** 2
        self.embed = nn.Conv2d(params.in_channels, params.width, params.patch_size, stride=params.patch_size)
        self.position = nn.Parameter(0.02 * torch.randn(1, patches, params.width))
        self.blocks = nn.ModuleList(Block(params.width, params.heads) for _ in range(params.depth))
        self.norm = nn.LayerNorm(params.width)
        self.linear = nn.Linear(params.width, params.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position  # [n, patches, width]
        for block in self.blocks:
            x = block(x)
        return self.linear(self.norm(x).mean(dim=1))  # type: ignore[no-any-return]


@register(
    "vit-small-images",
    ViTParams,
    source="Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1",
    summary="A small vision transformer for small images: patches, attention heads, mean pooling.",
)
def build_vit(params: ViTParams) -> Network:
    return image_network(
        ViT(params), (params.in_channels, params.image_size, params.image_size), params.classes
    )
