"""Augment images while training: a random crop of the padded image, and a mirror image half of the time."""

import torch
from torch.nn import functional


def crop_and_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return [n, c, h, w] of the same type, each image shifted by up to an eighth of its side, half mirrored.

    The border is black (zero): 4 pixels at 32x32, as He et al. 2016 (section 4.2) train on CIFAR-10.
    """
    n, _, h, w = images.shape
    pad = max(1, h // 8)
    padded = functional.pad(images, (pad, pad, pad, pad))  # [n, c, h + 2 pad, w + 2 pad]
    top = torch.randint(0, 2 * pad + 1, (n, 1, 1), generator=generator)
    left = torch.randint(0, 2 * pad + 1, (n, 1, 1), generator=generator)
    is_mirrored = torch.rand(n, 1, 1, generator=generator) < 0.5
    columns = torch.arange(w).reshape(1, 1, w).expand(n, 1, w)
    columns = torch.where(is_mirrored, w - 1 - columns, columns) + left  # [n, 1, w]
    rows = torch.arange(h).reshape(1, h, 1) + top  # [n, h, 1]
    samples = torch.arange(n).reshape(n, 1, 1)
    # The indexed axes come first: [n, h, w, c].
    return padded.permute(0, 2, 3, 1)[samples, rows, columns].permute(0, 3, 1, 2)
