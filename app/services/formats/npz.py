"""Check an image-classification split given as .npz: arrays `x` (images) and `y` (labels), without numpy.

`x` is [n, c, h, w] or [n, h, w, c], uint8 or float; `y` is [n], integers from 0. Other arrays may lie beside
them and are not used. The labels are read, the images only unpacked and counted.
"""

import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.core.errors import EmptyDataset, InvalidDataset, LabelsOutOfRange, PickleRefused
from app.services.formats import npy_header, zip_archive
from app.services.formats.npy_header import NpyHeader
from app.services.formats.zip_archive import Entry

MAX_CLASSES = 100_000
IMAGE_DTYPES = ("u1", "f2", "f4", "f8")
LABEL_TYPECODES = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "i1": "b", "i2": "h", "i4": "i", "i8": "q"}
_LABELS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class LabelRange:
    """The labels of a split; `classes` is None when they do not look like 0..k-1, each more than once."""

    low: int
    high: int
    classes: int | None


@dataclass(frozen=True)
class ImageSplit:
    """What a split holds: `n` images of `shape` as in the file (without n)."""

    n: int
    shape: tuple[int, ...]
    dtype: str
    labels: LabelRange


def read_split(path: Path, split: str, *, max_total_bytes: int) -> ImageSplit:
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
        _check_labels_fit(y, x.shape[0], split)
        labels = _read_labels(file, entries["y.npy"], y, split)
        for entry in entries.values():
            if entry.name != "y.npy":
                for _ in zip_archive.open_entry(file, entry):
                    pass
    return ImageSplit(n=x.shape[0], shape=x.shape[1:], dtype=x.dtype, labels=labels)


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


def _check_labels_fit(y: NpyHeader, n: int, split: str) -> None:
    if y.dtype not in LABEL_TYPECODES:
        raise InvalidDataset(f"split {split}: y has dtype {y.dtype}; expected integers, one label an image")
    if len(y.shape) != 1:
        raise InvalidDataset(
            f"split {split}: y has shape {list(y.shape)}; expected one axis, a label an image"
        )
    if y.shape[0] != n:
        raise InvalidDataset(f"split {split} has {n} images in x and {y.shape[0]} labels in y")


def _read_labels(file: BinaryIO, entry: Entry, y: NpyHeader, split: str) -> LabelRange:
    low: int | None = None
    high = 0
    counts: Counter[int] | None = Counter()
    for labels in _label_chunks(file, entry, y):
        low = min(labels) if low is None else min(low, min(labels))
        high = max(high, max(labels))
        if counts is not None:
            counts.update(labels)
            if len(counts) > MAX_CLASSES:
                counts = None
    if low is None or low < 0:
        raise LabelsOutOfRange(f"split {split} has the label {low}; labels count from 0")
    return LabelRange(low, high, _count_classes(counts, high))


def _label_chunks(file: BinaryIO, entry: Entry, y: NpyHeader) -> Iterator["array.array[int]"]:
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
            labels = array.array(LABEL_TYPECODES[y.dtype])
            labels.frombytes(data[start : min(start + _LABELS_AT_ONCE * y.item_bytes, whole)])
            if y.is_big_endian and y.item_bytes > 1:
                labels.byteswap()
            yield labels


def _count_classes(counts: Counter[int] | None, high: int) -> int | None:
    """Return k when the labels are 0..k-1 and each occurs more than once: then no label is a slip."""
    if counts is None or len(counts) != high + 1 or min(counts.values()) < 2:
        return None
    return high + 1
