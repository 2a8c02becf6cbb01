"""Tiny networks for the laws, and random batches for them."""

import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


class ConvNet(nn.Module):
    """Two convolutions with BatchNorm, two linear layers, in either order: [n, 4, 6, 6] → [n, 4]."""

    def __init__(self, *, backwards: bool = False) -> None:
        super().__init__()
        parts: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Conv2d(4, 8, 3, padding=1)),
            ("bn1", nn.BatchNorm2d(8)),
            ("conv2", nn.Conv2d(8, 8, 3, groups=2)),
            ("bn2", nn.BatchNorm2d(8)),
            ("fc1", nn.Linear(8, 16)),
            ("fc2", nn.Linear(16, 4)),
        ]
        for name, module in reversed(parts) if backwards else parts:
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc2(torch.relu(self.fc1(x.mean(dim=(2, 3)))))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))


class AttentionOutput(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)


class Attention(nn.Module):
    """Attention with the names of BERT: self.query, self.key, self.value, output.dense."""

    def __init__(self, width: int = 8, heads: int = 4) -> None:
        super().__init__()
        self.self = SelfAttention(width, heads)
        self.output = AttentionOutput(width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        heads = self.self.num_attention_heads

        def split(y: Tensor) -> Tensor:
            return y.reshape(n, length, heads, -1).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            split(self.self.query(x)), split(self.self.key(x)), split(self.self.value(x))
        )
        return self.output.dense(mixed.transpose(1, 2).reshape(n, length, width))


class Transformer(nn.Module):
    """Two attentions and a head, registered in either order: [n, 3, 8] → [n, 4]."""

    def __init__(self, *, backwards: bool = False) -> None:
        super().__init__()
        parts: list[tuple[str, nn.Module]] = [
            ("first", Attention()),
            ("second", Attention()),
            ("classifier", nn.Linear(8, 4)),
        ]
        for name, module in reversed(parts) if backwards else parts:
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        x = x + self.second(x)
        return self.classifier(x.mean(dim=1))


def fill(model: nn.Module, seed: int, *, tied: bool) -> None:
    """Give every parameter random values that depend on its name alone; with `tied`, of few magnitudes."""
    with torch.no_grad():
        for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
            generator = torch.Generator().manual_seed(1000 * seed + i)
            values = torch.randn(parameter.shape, generator=generator)
            if tied:
                # Never zero, so that no layer stops the flow from input to output.
                values = values.sign() * (0.25 + 0.25 * (2 * values.abs()).round())
            parameter.copy_(values)


def batches(model: nn.Module, seed: int = 0) -> Batches:
    """Return two batches of eight samples for one of the networks."""
    generator = torch.Generator().manual_seed(seed)
    shape = (8, 3, 8) if isinstance(model, Transformer) else (8, 4, 6, 6)
    return [
        (torch.randn(shape, generator=generator), torch.randint(4, (8,), generator=generator))
        for _ in range(2)
    ]
