"""CIFAR-10 and the ResNets trained on it, from a folder named by SECATEUR_BENCH_DATA."""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.follow import Upload

VARIABLE = "SECATEUR_BENCH_DATA"
NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_TRAIN_PARTS = ("train10k", "train_more0", "train_more1", "train_more2", "train_more3")
_TILES_A_ROW = 100
_ARCHITECTURES = {"resnet20": "resnet-20", "resnet56": "resnet-56"}


class CifarMissing(Exception):
    """The folder with the benchmark's data is not there; the message says what was expected."""


def prepare_cifar(folder: Path, network: str) -> tuple[Upload, Upload]:
    """Write train (49,059) and test (5,000) images as npz, and the dense model, ready to be uploaded.

    Raises CifarMissing.
    """
    source = _find_folder()
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.load(_require(source / "cifar10_labels.npz"))
    splits = {"train": _TRAIN_PARTS, "test": ("test5000",)}
    files = {name: folder / f"{name}.npz" for name in splits}
    for name, parts in splits.items():
        y = [labels[part].astype(np.int64) for part in parts]
        x = [
            _read_mosaic(source / f"cifar10_{part}.webp", len(own))
            for part, own in zip(parts, y, strict=True)
        ]
        np.savez(files[name], x=np.concatenate(x), y=np.concatenate(y))
    weights = folder / f"{network}.safetensors"
    shutil.copyfile(_require(source / f"cifar10_{network}.safetensors"), weights)
    architecture = {"library": "secateur", "name": _ARCHITECTURES[network], "params": {}}
    model = Upload({"weights": weights}, {"name": f"{network}, CIFAR-10", "architecture": architecture})
    return model, Upload(files, {"name": "CIFAR-10", "layout": "NHWC", "normalize": NORMALIZE})


def _find_folder() -> Path:
    value = os.environ.get(VARIABLE)
    if not value:
        raise CifarMissing(
            f"set {VARIABLE} to a folder with cifar10_labels.npz, cifar10_*.webp, cifar10_resnet*.safetensors"
        )
    return Path(value)


def _require(path: Path) -> Path:
    if not path.is_file():
        raise CifarMissing(f"{path} is missing ({VARIABLE}={os.environ.get(VARIABLE)})")
    return path


def _read_mosaic(path: Path, count: int) -> np.ndarray:
    """Cut a mosaic of 32x32 tiles, 100 a row, into images [count, 32, 32, 3] uint8."""
    z = np.asarray(Image.open(_require(path)).convert("RGB"))  # [32 rows, 3200, 3]
    tiles = z.reshape(z.shape[0] // 32, 32, _TILES_A_ROW, 32, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, 32, 32, 3)[:count]
