"""The demo's data and dense model: scikit-learn's handwritten digits and a small ResNet trained on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.nn import functional

from worker.models.registry import build

ARCHITECTURE: dict[str, JsonValue] = {"library": "secateur", "name": "resnet8x8", "params": {}}
_TEST_FRACTION = 0.3
EPOCHS = 12
_BATCH_SIZE = 64
_PEAK_LEARNING_RATE = 0.1


@dataclass(frozen=True)
class Split:
    """Images [n, 1, 8, 8] uint8 and labels [n] int64."""

    x: np.ndarray
    y: np.ndarray


def load_splits(*, seed: int = 0) -> tuple[Split, Split]:
    """Return the 1,797 digits as a train and a test split, shuffled with `seed`."""
    digits = load_digits()
    x = (digits.images / 16.0 * 255.0).round().astype(np.uint8)[:, None]  # [n, 1, 8, 8]
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(y))
    cut = int(len(y) * _TEST_FRACTION)
    test, train = order[:cut], order[cut:]
    return Split(x[train], y[train]), Split(x[test], y[test])


def save_split(split: Split, path: Path) -> Path:
    """Write a split as the npz that Secateur takes."""
    np.savez_compressed(path, x=split.x, y=split.y)
    return path


def train_dense(train: Split, path: Path, *, seed: int = 0) -> Iterator[int]:
    """Train the small ResNet for some seconds, yielding each epoch; writes its state dict as safetensors."""
    torch.manual_seed(seed)
    network = build(ARCHITECTURE).module.train()
    x = torch.from_numpy(train.x).float() / 255.0
    y = torch.from_numpy(train.y)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = EPOCHS * -(-len(y) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(y)), _BATCH_SIZE):
            loss = functional.cross_entropy(network(x[batch]), y[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        yield epoch
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, path)
