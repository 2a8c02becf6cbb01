"""Fashion-MNIST from a folder with its four idx files: Debian's package dataset-fashion-mnist has them."""

import gzip
import os
from pathlib import Path

import numpy as np

from benchmarks.follow import Upload

VARIABLE = "SECATEUR_FASHION_MNIST"
_NAMES = {"train": "train", "test": "t10k"}


class FashionMissing(Exception):
    """The folder is not there; the message says what was expected."""


def prepare_fashion(folder: Path) -> Upload:
    """Write train (60,000) and test (10,000) images, 28x28 in one channel, as npz. Raises FashionMissing."""
    value = os.environ.get(VARIABLE)
    if not value:
        raise FashionMissing(
            f"set {VARIABLE} to a folder with train-images-idx3-ubyte.gz and the other three of Fashion-MNIST"
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, prefix in _NAMES.items():
        images = _read_idx(Path(value) / f"{prefix}-images-idx3-ubyte.gz", header_bytes=16)
        labels = _read_idx(Path(value) / f"{prefix}-labels-idx1-ubyte.gz", header_bytes=8)
        files[split] = folder / f"{split}.npz"
        np.savez(files[split], x=images.reshape(-1, 1, 28, 28), y=labels.astype(np.int64))
    return Upload(files, {"name": "Fashion-MNIST", "normalize": {"mean": [0.286], "std": [0.353]}})


def _read_idx(path: Path, *, header_bytes: int) -> np.ndarray:
    if not path.is_file():
        raise FashionMissing(f"{path} is missing ({VARIABLE}={os.environ.get(VARIABLE)})")
    with gzip.open(path) as file:
        return np.frombuffer(file.read()[header_bytes:], dtype=np.uint8)
