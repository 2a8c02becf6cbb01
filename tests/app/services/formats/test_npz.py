"""The npz check: it agrees with numpy about what it takes, and names what it refuses."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.core import errors
from app.services.formats.npz import LABEL_TYPECODES, read_split

LIMIT = 10_000_000
_SIGNED_OR_NOT = sorted(LABEL_TYPECODES)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("npz") / "file.npz"


def npz(*, packed: bool = False, **arrays) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def images(n: int = 4, dtype: str = "u1") -> np.ndarray:
    return np.zeros((n, 1, 2, 3), dtype)


def labels(n: int = 4) -> np.ndarray:
    return np.arange(n) // 2


def read(path: Path, data: bytes):
    path.write_bytes(data)
    return read_split(path, "test", max_total_bytes=LIMIT)


@given(
    n=st.integers(1, 40),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    image_dtype=st.sampled_from(["u1", "<f2", ">f4", "<f8"]),
    label_dtype=st.sampled_from([order + name for order in "<>" for name in _SIGNED_OR_NOT]),
    packed=st.booleans(),
    fortran=st.booleans(),
    data=st.data(),
)
def test_what_numpy_writes_is_read_as_numpy_reads_it(
    path, n, shape, image_dtype, label_dtype, packed, fortran, data
):
    y = np.array(data.draw(st.lists(st.integers(0, 120), min_size=n, max_size=n)), label_dtype)
    x = np.zeros((n, *shape), image_dtype, order="F" if fortran else "C")
    found = read(path, npz(x=x, y=y, packed=packed))
    assert (found.n, found.shape, found.dtype) == (n, shape, image_dtype.lstrip("<>"))
    assert (found.labels.low, found.labels.high) == (int(y.min()), int(y.max()))
    counts = np.bincount(y.astype(np.int64))
    assert found.labels.classes == (len(counts) if counts.min() > 1 else None)


@settings(max_examples=300)
@given(
    packed=st.booleans(),
    damage=st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(0, 2**32),
)
@example(packed=False, damage=[(428, 64)], cut=None)  # asks for zip version 6.4
def test_a_damaged_file_is_refused_or_read_as_numpy_reads_it(path, packed, damage, cut):
    bad = bytearray(npz(x=images(), y=labels(), packed=packed))
    for place, value in damage:
        bad[place % len(bad)] = value
    if cut is not None:
        del bad[cut % len(bad) :]
    try:
        found = read(path, bytes(bad))
    except (errors.InvalidDataset, errors.InvalidModel):
        return
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["x"].shape == (found.n, *found.shape)
        assert (arrays["y"].min(), arrays["y"].max()) == (found.labels.low, found.labels.high)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_reason(path, data):
    with pytest.raises((errors.InvalidDataset, errors.InvalidModel)):
        read(path, data)


def test_labels_over_many_pieces_are_all_read(path):
    y = np.zeros(300_000, ">i4")
    y[299_999], y[150_000] = 7, 3
    found = read(path, npz(x=np.zeros((300_000, 1, 1, 1), np.uint8), y=y, packed=True))
    assert (found.labels.low, found.labels.high, found.labels.classes) == (0, 7, None)


def test_other_arrays_are_left_alone_but_checked(path):
    assert read(path, npz(x=images(), y=labels(), names=np.array(["a", "b"]))).n == 4
    with pytest.raises(errors.ObjectArrayRefused):
        read(path, npz(x=images(), y=labels(), names=np.array([{}, 1], object)))


@pytest.mark.parametrize(
    ("arrays", "error", "says"),
    [
        ({"y": labels()}, errors.InvalidDataset, "lacks the array 'x'"),
        ({"x": images()}, errors.InvalidDataset, "lacks the array 'y'"),
        ({"x": images(5), "y": labels()}, errors.InvalidDataset, "5 images in x and 4 labels"),
        ({"x": images(0), "y": labels(0)}, errors.EmptyDataset, "no samples"),
        ({"x": np.zeros((4, 1, 0, 3)), "y": labels()}, errors.InvalidDataset, "no length"),
        ({"x": np.zeros((4, 2, 3)), "y": labels()}, errors.InvalidDataset, "four axes"),
        ({"x": np.zeros((4, 1, 2, 3), "i4"), "y": labels()}, errors.InvalidDataset, "dtype i4"),
        ({"x": np.zeros((4, 1, 2, 3), "c8"), "y": labels()}, errors.InvalidDataset, "dtype c8"),
        ({"x": images(), "y": labels().astype("f4")}, errors.InvalidDataset, "dtype f4"),
        ({"x": images(), "y": labels() > 0}, errors.InvalidDataset, "dtype b1"),
        ({"x": images(), "y": labels()[:, None]}, errors.InvalidDataset, "one axis"),
        ({"x": images(), "y": labels() - 1}, errors.LabelsOutOfRange, "label -1"),
        ({"x": images(), "y": np.array([1, 2, "a", None], object)}, errors.ObjectArrayRefused, "objects"),
        ({"x": images(), "y": np.zeros(4, [("a", "i4"), ("b", "O")])}, errors.ObjectArrayRefused, "objects"),
        ({"x": images(), "y": np.zeros(4, [("a", "i4")])}, errors.InvalidDataset, "one number"),
        ({"x": images(), "y": np.zeros(4, "M8[s]")}, errors.InvalidDataset, "one number"),
    ],
)
def test_arrays_that_are_no_dataset_are_refused_with_what_was_expected(path, arrays, error, says):
    with pytest.raises(error, match=says) as caught:
        read(path, npz(**arrays))
    assert type(caught.value) is error


def test_a_pickle_is_refused_as_one(path):
    with pytest.raises(errors.PickleRefused):
        read(path, pickle.dumps({"x": 1}))


def test_an_array_that_unpacks_to_more_than_the_limit_is_refused_without_unpacking(path):
    bomb = npz(x=np.zeros((20_000_000, 1, 1, 1), np.uint8), y=np.zeros(4), packed=True)
    assert len(bomb) < 100_000
    with pytest.raises(errors.InvalidDataset, match="20000"):
        read(path, bomb)


def test_an_array_that_unpacks_to_more_than_it_declares_is_refused(path):
    data = bytearray(npz(x=np.zeros((100, 1, 1, 1), np.uint8), y=labels(100), packed=True))
    said = struct.pack("<L", 100 + 128)
    lied = struct.pack("<L", 50 + 128)
    data = data.replace(said, lied).replace(b"(100, 1", b"(50, 1,")
    with pytest.raises(errors.InvalidDataset):
        read(path, bytes(data))


def _write(path: Path, **changes) -> None:
    """Write a good archive by zipfile, with one liberty taken."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("x", images()), ("y", labels())):
            buffer = io.BytesIO()
            np.save(buffer, array)
            info = zipfile.ZipInfo(changes.get(f"name_{name}", f"{name}.npy"))
            info.compress_type = changes.get("method", zipfile.ZIP_STORED)
            info.external_attr = changes.get("mode", 0o100644) << 16
            archive.writestr(info, buffer.getvalue())
        if "comment" in changes:
            archive.comment = changes["comment"]


def test_the_archive_without_liberties_is_taken(path):
    _write(path)
    assert read_split(path, "test", max_total_bytes=LIMIT).n == 4


@pytest.mark.parametrize(
    "liberty",
    [
        {"comment": b"hello"},
        {"method": zipfile.ZIP_BZIP2},
        {"method": zipfile.ZIP_LZMA},
        {"mode": 0o120777},
        {"mode": 0o040755},
        {"name_x": "../x.npy"},
        {"name_x": "/x.npy"},
        {"name_x": "a\\x.npy"},
        {"name_x": "Y.npy"},
    ],
)
def test_each_trick_of_an_archive_is_refused(path, liberty):
    _write(path, **liberty)
    with pytest.raises((errors.InvalidDataset, errors.TruncatedFile)):
        read_split(path, "test", max_total_bytes=LIMIT)


@pytest.mark.parametrize("place", ["before", "after", "between"])
def test_bytes_that_belong_to_no_entry_are_refused(path, place):
    good = npz(x=images(), y=labels())
    split = good.index(b"PK\x03\x04", 4)
    bad = {
        "before": b"junk" + good,
        "after": good + b"junk",
        "between": good[:split] + b"junk" + good[split:],
    }
    with pytest.raises((errors.InvalidDataset, errors.TruncatedFile)):
        read(path, bad[place])


def test_two_entries_over_the_same_bytes_are_refused(path):
    _write(path)
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")  # the entry of y
    data[directory + 42 : directory + 46] = struct.pack("<L", 0)  # now begins where x does
    with pytest.raises(errors.InvalidDataset):
        read(path, bytes(data))


def test_a_name_twice_is_refused(path):
    with pytest.warns(UserWarning, match="Duplicate"):
        _write(path, name_y="x.npy")
    with pytest.raises(errors.InvalidDataset, match="twice"):
        read_split(path, "test", max_total_bytes=LIMIT)


def test_an_archive_written_as_a_stream_is_refused(path):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise io.UnsupportedOperation

        def tell(self):
            raise io.UnsupportedOperation

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        archive.writestr("x.npy", b"")
        archive.writestr("y.npy", b"")
    with pytest.raises(errors.InvalidDataset):
        read(path, pipe.getvalue())
