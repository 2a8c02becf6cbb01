"""The task of ResNet-20 on CIFAR-10: 5,000 test images, calibrated on images of the train split."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.data_folder import find_file
from benchmarks.task import Batch, Task
from worker.models.registry import build

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_TILES_A_ROW = 100


def resnet20_task(folder: Path, *, samples: int = 512, seed: int = 0) -> Task:
    """Build the task; `samples` train images are drawn with `seed` to calibrate on."""
    train, test = read_images(folder, "train10k"), read_images(folder, "test5000")
    drawn = np.random.default_rng(seed).permutation(len(train[1]))[:samples]
    weights = load_file(find_file(folder, "cifar10_resnet20.safetensors"))

    def load() -> nn.Module:
        model = build({"library": "secateur", "name": "resnet-20", "params": {}}).module
        model.load_state_dict(weights)
        return model

    return Task(
        name="ResNet-20, CIFAR-10",
        load=load,
        calibration=batches(train[0][drawn], train[1][drawn], size=128),
        test=batches(*test, size=250),
        excluded=(),
        units="filter",
        units_excluded=("linear",),
        units_sparsities=(0.1, 0.2),
        has_batchnorm=True,
    )


def read_images(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Read one split: images [n, 3, 32, 32] float32, normalised, and labels [n] int64."""
    labels = np.load(find_file(folder, "cifar10_labels.npz"))[split].astype(np.int64)
    with Image.open(find_file(folder, f"cifar10_{split}.webp")) as picture:
        mosaic = np.asarray(picture.convert("RGB"))
    tiles = mosaic.reshape(mosaic.shape[0] // 32, 32, _TILES_A_ROW, 32, 3).transpose(0, 2, 4, 1, 3)
    images = torch.from_numpy(tiles.reshape(-1, 3, 32, 32)[: len(labels)] / np.float32(255))
    mean, std = (torch.tensor(channel).view(1, 3, 1, 1) for channel in (MEAN, STD))
    return (images - mean) / std, torch.from_numpy(labels)


def batches(x: Tensor, y: Tensor, *, size: int) -> list[Batch]:
    """Cut images and labels into batches of `size`, in order."""
    return list(zip(torch.split(x, size), torch.split(y, size), strict=True))
