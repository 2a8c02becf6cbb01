"""Read image datasets given as one .npz a split, with the arrays `x` and `y`."""

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from app.core.errors import EmptyDataset, InvalidDataset, ObjectArrayRefused
from worker.datasets.images import ImageSplit
from worker.datasets.registry import Splits, register
from worker.models.registry import Network
from worker.protocol import DatasetInput

_LAYOUTS = ("NCHW", "NHWC")
# numpy leaves the type of a loaded array open; it is checked below.
_Array = npt.NDArray[np.generic]


@register(
    "npz",
    summary="Arrays x (images) and y (labels), one .npz a split.",
    tasks=("image-classification", "regression"),
)
def read_npz(dataset: DatasetInput, network: Network) -> Splits:
    """Read every split; raises InvalidDataset, ObjectArrayRefused or EmptyDataset, naming split and array."""
    layout = dataset.layout or "NCHW"
    if layout not in _LAYOUTS:
        raise InvalidDataset(f"there is no layout {layout!r}; there are: {', '.join(_LAYOUTS)}")
    return {name: _read_split(name, path, dataset) for name, path in sorted(dataset.files.items())}


def _read_split(name: str, path: Path, dataset: DatasetInput) -> ImageSplit:
    x, y = _read_arrays(name, path)
    images = _check_images(name, x, layout=dataset.layout or "NCHW")
    labels = _check_numbers(name, y) if dataset.task == "regression" else _check_labels(name, y)
    if len(images) != len(labels):
        raise InvalidDataset(f"split {name} has {len(images)} images in x and {len(labels)} labels in y")
    if len(labels) == 0:
        raise EmptyDataset(f"split {name} holds no samples")
    channels = images.shape[1]
    return ImageSplit(
        name,
        images,
        labels,
        mean=_read_channel_values("mean", dataset.normalize, channels=channels, default=0.0),
        std=_read_channel_values("std", dataset.normalize, channels=channels, default=1.0),
    )


def _read_arrays(name: str, path: Path) -> tuple[_Array, _Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_objects(name, archive)
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in ("x", "y") if key not in arrays]
            if missing:
                found = ", ".join(arrays.files) or "none"
                raise InvalidDataset(f"split {name} lacks the array {missing[0]!r}; it has: {found}")
            return arrays["x"], arrays["y"]
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, KeyError) as error:
        raise InvalidDataset(f"split {name} cannot be read as .npz: {error}") from error


def _refuse_objects(name: str, archive: zipfile.ZipFile) -> None:
    for member in archive.namelist():
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            dtype = read_header(file)[2]
        if dtype.hasobject:
            raise ObjectArrayRefused(f"split {name}: array {member.removesuffix('.npy')!r} has dtype {dtype}")


def _check_images(name: str, x: _Array, *, layout: str) -> torch.Tensor:
    if x.ndim != 4:
        raise InvalidDataset(
            f"split {name}: x has shape {list(x.shape)}; expected four axes, {layout}, "
            "gray images too (with one channel)"
        )
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise InvalidDataset(f"split {name}: x has dtype {x.dtype}; expected uint8 or a float")
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise InvalidDataset(
                f"split {name}: x holds {int((~np.isfinite(x)).sum())} NaN or infinite values"
            )
    if layout == "NHWC":
        x = x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(x))  # [n, c, h, w]


def _check_labels(name: str, y: _Array) -> torch.Tensor:
    if y.ndim != 1:
        raise InvalidDataset(f"split {name}: y has shape {list(y.shape)}; expected one label a sample, [n]")
    if not np.issubdtype(y.dtype, np.integer):
        raise InvalidDataset(f"split {name}: y has dtype {y.dtype}; expected integers")
    return torch.from_numpy(y.astype(np.int64))


def _check_numbers(name: str, y: _Array) -> torch.Tensor:
    if y.ndim != 1:
        raise InvalidDataset(f"split {name}: y has shape {list(y.shape)}; expected one number a sample, [n]")
    if not np.issubdtype(y.dtype, np.integer) and not np.issubdtype(y.dtype, np.floating):
        raise InvalidDataset(f"split {name}: y has dtype {y.dtype}; expected numbers")
    with np.errstate(over="ignore"):
        numbers = y.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise InvalidDataset(f"split {name}: y holds NaN, infinity or what float32 cannot hold")
    return torch.from_numpy(numbers)


def _read_channel_values(
    key: str, normalize: dict[str, list[float]] | None, *, channels: int, default: float
) -> torch.Tensor:
    values = (normalize or {}).get(key, [default] * channels)
    if len(values) != channels:
        raise InvalidDataset(f"normalize.{key} has {len(values)} values for {channels} channels")
    tensor = torch.tensor(values, dtype=torch.float32)
    if not torch.isfinite(tensor).all() or (key == "std" and (tensor <= 0).any()):
        raise InvalidDataset(
            f"normalize.{key} must be finite{' and over zero' if key == 'std' else ''}: {values}"
        )
    return tensor.reshape(channels, 1, 1)
