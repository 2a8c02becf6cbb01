"""Reading image datasets from npz."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.core.errors import EmptyDataset, InvalidDataset, ObjectArrayRefused, UnsupportedFormat
from worker.datasets.registry import read_splits
from worker.models.registry import build
from worker.protocol import DatasetInput

IMAGES = np.arange(3 * 2 * 4 * 5, dtype=np.uint8).reshape(3, 2, 4, 5)
LABELS = np.array([0, 1, 2])
NETWORK = build({"name": "lenet-300-100"})


def read(folder, x=IMAGES, y=LABELS, *, arrays=None, **changes):
    path = folder / "test.npz"
    np.savez(path, **(arrays if arrays is not None else {"x": x, "y": y}))
    return read_file(path, **changes)


def read_file(path, **changes):
    given = {
        "format": "npz",
        "task": "image-classification",
        "layout": None,
        "normalize": None,
        "files": {"test": path},
        "sha256": {},
    }
    return read_splits(DatasetInput(**{**given, **changes}), NETWORK)["test"]


def everything(split):
    return split.take(torch.arange(len(split)))


def test_bytes_are_scaled_to_the_unit_interval(tmp_path):
    images, labels = everything(read(tmp_path))
    assert images.dtype == torch.float32
    assert torch.equal(images, torch.from_numpy(IMAGES).float() / 255)
    assert labels.tolist() == [0, 1, 2]


def test_channels_last_files_give_the_same_images(tmp_path):
    first = everything(read(tmp_path))[0]
    last = everything(read(tmp_path, x=IMAGES.transpose(0, 2, 3, 1), layout="NHWC"))[0]
    assert torch.equal(first, last)


def test_floats_are_taken_as_they_are(tmp_path):
    x = np.linspace(-3, 3, 120).reshape(3, 2, 4, 5)
    assert torch.equal(everything(read(tmp_path, x=x))[0], torch.from_numpy(x).float())


def test_channels_are_normalised_after_scaling(tmp_path):
    images = everything(read(tmp_path, normalize={"mean": [0.5, 0.25], "std": [2.0, 4.0]}))[0]
    scaled = torch.from_numpy(IMAGES).float() / 255
    assert torch.allclose(images[:, 0], (scaled[:, 0] - 0.5) / 2)
    assert torch.allclose(images[:, 1], (scaled[:, 1] - 0.25) / 4)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5)), st.integers(1, 7))
def test_batches_are_the_split_in_its_order(tmp_path_factory, x, batch_size):
    split = read(tmp_path_factory.mktemp("npz"), x=x, y=np.arange(len(x)))
    batches = list(split.batches(batch_size))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(len(x)))
    assert torch.equal(torch.cat([images for images, _ in batches]), everything(split)[0])


def test_object_arrays_are_refused(tmp_path):
    with pytest.raises(ObjectArrayRefused, match="'x'"):
        read(tmp_path, x=np.array([{"a": 1}], dtype=object))


def test_object_arrays_that_nobody_asked_for_are_refused_too(tmp_path):
    with pytest.raises(ObjectArrayRefused, match="'extra'"):
        read(tmp_path, arrays={"x": IMAGES, "y": LABELS, "extra": np.array([None])})


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04broken"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "test.npz").write_bytes(content)
    with pytest.raises(InvalidDataset, match="split test"):
        read_file(tmp_path / "test.npz")


def test_a_truncated_file_is_refused(tmp_path):
    read(tmp_path)
    whole = (tmp_path / "test.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidDataset, match="split test"):
        read_file(tmp_path / "cut.npz")


def test_a_damaged_array_is_refused(tmp_path):
    read(tmp_path)
    damaged = bytearray((tmp_path / "test.npz").read_bytes())
    damaged[200] ^= 0xFF
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(InvalidDataset, match="split test"):
        read_file(tmp_path / "damaged.npz")


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(EmptyDataset):
        read(tmp_path, x=IMAGES[:0], y=LABELS[:0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    x = IMAGES.astype(np.float32)
    x[1, 0, 2, 3] = value
    with pytest.raises(InvalidDataset, match="x holds 1 NaN or infinite"):
        read(tmp_path, x=x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrays": {"x": IMAGES}}, "lacks the array 'y'"),
        ({"x": IMAGES[:, 0]}, "four axes"),
        ({"x": IMAGES.astype(np.int32)}, "dtype int32"),
        ({"y": LABELS[:2]}, "3 images in x and 2 labels in y"),
        ({"y": LABELS[:, None]}, "one label a sample"),
        ({"y": LABELS.astype(float)}, "expected integers"),
        ({"layout": "CHWN"}, "'CHWN'"),
        ({"normalize": {"mean": [0.5]}}, "1 values for 2 channels"),
        ({"normalize": {"std": [1.0, 0.0]}}, "over zero"),
        ({"files": {}}, "split test"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(tmp_path, changes, message):
    with pytest.raises(InvalidDataset, match=message):
        read(tmp_path, **changes)


def test_the_labels_of_regression_are_numbers(tmp_path):
    numbers = np.array([-1.5, 0.0, 1e3])
    labels = everything(read(tmp_path, y=numbers, task="regression")).targets
    assert (labels.dtype, labels.tolist()) == (torch.float32, numbers.tolist())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_number_that_float32_cannot_hold_is_refused(tmp_path, value):
    with pytest.raises(InvalidDataset, match="split test: y holds"):
        read(tmp_path, y=np.array([0.0, value, 1.0]), task="regression")


@pytest.mark.parametrize("changes", [{"format": "hdf5"}, {"task": "text-classification"}])
def test_an_unknown_format_or_task_is_refused(tmp_path, changes):
    with pytest.raises(UnsupportedFormat, match=next(iter(changes.values()))):
        read(tmp_path, **changes)
