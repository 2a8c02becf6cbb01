"""Check a split of images given as .npz: arrays `x` (images) and `y` (labels), without numpy.

`x` is [n, c, h, w] or [n, h, w, c], uint8 or float; `y` is [n], integers from 0, or for regression numbers.
Other arrays may lie beside them and are not used. The labels are read, the images only unpacked and counted.
"""

import array
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from app.core.errors import EmptyDataset, InvalidDataset, LabelsOutOfRange, PickleRefused
from app.services.formats import npy_header, zip_archive
from app.services.formats.labels import LabelCounter, LabelRange, SplitFacts
from app.services.formats.npy_header import NpyHeader
from app.services.formats.zip_archive import Entry

IMAGE_DTYPES = ("u1", "f2", "f4", "f8")
LABEL_TYPECODES = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "i1": "b", "i2": "h", "i4": "i", "i8": "q"}
NUMBER_TYPECODES = LABEL_TYPECODES | {"f4": "f", "f8": "d"}
_LABELS_AT_ONCE = 1 << 16


def read_split(
    path: Path, split: str, *, max_total_bytes: int, task: str = "image-classification"
) -> SplitFacts:
    """Return what a sound split holds; raises what is wrong with it, naming the split.

    PickleRefused, InvalidDataset, TruncatedFile, ObjectArrayRefused, EmptyDataset or LabelsOutOfRange.
    """
    with path.open("rb") as file:
        _refuse_other_files(file, split)
        entries = zip_archive.read_entries(file, max_total_bytes=max_total_bytes)
        headers = {
            entry.name.removesuffix(".npy"): _read_header(file, entry, split) for entry in entries.values()
        }
        x, y = _pick_arrays(headers, split)
        _check_images(x, split)
        _check_labels_fit(y, x.shape[0], split, task=task)
        labels = _read_labels(file, entries["y.npy"], y, split, are_classes=task != "regression")
        if task != "regression" and labels.low < 0:
            raise LabelsOutOfRange(f"split {split} has the label {labels.low}; labels count from 0")
        for entry in entries.values():
            if entry.name != "y.npy":
                for _ in zip_archive.open_entry(file, entry):
                    pass
    return SplitFacts(n=x.shape[0], shape=x.shape[1:], dtype=x.dtype, labels=labels)


def _refuse_other_files(file: BinaryIO, split: str) -> None:
    start = file.read(6)
    if start[:1] == b"\x80":
        raise PickleRefused(f"split {split} is a pickle, which could run code when read; use numpy.savez")
    if not start.startswith(b"PK\x03\x04"):
        raise InvalidDataset(f"split {split} is not an .npz file; write one with numpy.savez(path, x=…, y=…)")


def _read_header(file: BinaryIO, entry: Entry, split: str) -> NpyHeader:
    name = f"split {split}: {entry.name}"
    start = b""
    for piece in zip_archive.open_entry(file, entry):
        start += piece
        if len(start) >= npy_header.MAX_HEADER_BYTES + 12:
            break
    header = npy_header.read_header(start, name)
    if header.size_bytes != entry.size_bytes:
        raise InvalidDataset(
            f"{name} has {entry.size_bytes} bytes, its header {header.dtype} {list(header.shape)} asks for "
            f"{header.size_bytes}"
        )
    return header


def _pick_arrays(headers: dict[str, NpyHeader], split: str) -> tuple[NpyHeader, NpyHeader]:
    for name in ("x", "y"):
        if name not in headers:
            found = ", ".join(sorted(headers))
            raise InvalidDataset(f"split {split} lacks the array {name!r}; it has: {found}")
    return headers["x"], headers["y"]


def _check_images(x: NpyHeader, split: str) -> None:
    if x.dtype not in IMAGE_DTYPES:
        raise InvalidDataset(
            f"split {split}: x has dtype {x.dtype}; expected one of {', '.join(IMAGE_DTYPES)}"
        )
    if len(x.shape) != 4:
        raise InvalidDataset(
            f"split {split}: x has shape {list(x.shape)}; expected four axes, NCHW or NHWC "
            f"(gray images have one channel)"
        )
    if x.shape[0] == 0:
        raise EmptyDataset(f"split {split} holds no samples")
    if 0 in x.shape:
        raise InvalidDataset(f"split {split}: x has shape {list(x.shape)}, with an axis of no length")


def _check_labels_fit(y: NpyHeader, n: int, split: str, *, task: str) -> None:
    if task == "regression":
        if y.dtype not in NUMBER_TYPECODES:
            raise InvalidDataset(
                f"split {split}: y has dtype {y.dtype}; expected one of {', '.join(NUMBER_TYPECODES)}"
            )
    elif y.dtype not in LABEL_TYPECODES:
        raise InvalidDataset(f"split {split}: y has dtype {y.dtype}; expected integers, one label an image")
    if len(y.shape) != 1:
        raise InvalidDataset(
            f"split {split}: y has shape {list(y.shape)}; expected one axis, a label an image"
        )
    if y.shape[0] != n:
        raise InvalidDataset(f"split {split} has {n} images in x and {y.shape[0]} labels in y")


def _read_labels(file: BinaryIO, entry: Entry, y: NpyHeader, split: str, *, are_classes: bool) -> LabelRange:
    is_float = y.dtype[0] == "f"
    seen = LabelCounter(are_classes=are_classes)
    for labels in _label_chunks(file, entry, y):
        if is_float and not all(map(math.isfinite, labels)):
            raise InvalidDataset(f"split {split}: y holds NaN or infinite labels")
        seen.add(labels)
    found = seen.range()
    assert found is not None  # there is a label for each image, and at least one image
    return found


def _label_chunks(
    file: BinaryIO, entry: Entry, y: NpyHeader
) -> Iterator["array.array[int] | array.array[float]"]:
    """Yield the labels in pieces of whole items, in the byte order of this machine."""
    skip = y.data_start
    rest = b""
    for piece in zip_archive.open_entry(file, entry):
        data = rest + piece
        if skip:
            dropped = min(skip, len(data))
            skip -= dropped
            data = data[dropped:]
        whole = len(data) - len(data) % y.item_bytes
        rest = data[whole:]
        for start in range(0, whole, _LABELS_AT_ONCE * y.item_bytes):
            labels = array.array(NUMBER_TYPECODES[y.dtype])
            labels.frombytes(data[start : min(start + _LABELS_AT_ONCE * y.item_bytes, whole)])
            if y.is_big_endian and y.item_bytes > 1:
                labels.byteswap()
            yield labels
