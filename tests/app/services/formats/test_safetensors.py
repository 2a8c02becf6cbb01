"""The safetensors check: whatever it takes, the library reads the same; whatever is odd, it names."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from app.core import errors
from app.services.formats.safetensors import read_tensors

_DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
_NAMES = st.from_regex(r"[A-Za-z0-9_.:/-]{1,20}", fullmatch=True).filter(lambda n: ".." not in n)
_TENSORS = st.dictionaries(
    _NAMES,
    st.tuples(st.sampled_from(_DTYPES), st.lists(st.integers(0, 4), max_size=4)),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("safetensors") / "file"


def raw(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, *, shape: object = None, dtype: object = "U8") -> dict:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def read(path: Path, data: bytes):
    path.write_bytes(data)
    return read_tensors(path)


def read_by_library(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    with safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}


@given(_TENSORS)
def test_what_the_library_writes_is_read_with_its_names_types_and_shapes(path, tensors):
    found = read(path, save({name: np.zeros(shape, dtype) for name, (dtype, shape) in tensors.items()}))
    assert {t.name: (t.dtype, t.shape) for t in found} == read_by_library(path)
    assert sum(t.elements for t in found) == sum(int(np.prod(shape)) for _, shape in tensors.values())


@settings(max_examples=300)
@given(
    _TENSORS,
    st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 255)), min_size=1, max_size=4),
    st.data(),
)
def test_a_damaged_file_is_refused_or_read_as_the_library_reads_it(path, tensors, damage, data):
    good = bytearray(save({name: np.ones(shape, dtype) for name, (dtype, shape) in tensors.items()}))
    for place, value in damage:
        good[place % len(good)] = value
    cut = data.draw(st.integers(0, len(good)))
    bad = bytes(good[:cut]) if data.draw(st.booleans()) else bytes(good)
    try:
        found = read(path, bad)
    except errors.InvalidModel:
        return
    assert {t.name: (t.dtype, t.shape) for t in found} == read_by_library(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_reason(path, data):
    with pytest.raises(errors.InvalidModel):
        read(path, data)


def test_a_header_whose_length_looks_like_a_pickle_is_still_read(path):
    # 640 = 0x0280: the file begins with the bytes that open a pickle of protocol 2.
    header = json.dumps({"a": entry(0, 3)}).encode().ljust(640)
    assert read(path, raw(header, b"abc"))[0].name == "a"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_torch_file_is_refused_as_a_pickle_and_says_what_to_do(path, legacy):
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(errors.PickleRefused, match="safetensors"):
        read_tensors(path)


def test_a_plain_pickle_is_refused_without_being_run(path, tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    with pytest.raises(errors.PickleRefused):
        read(path, pickle.dumps(Attack()))
    assert not (tmp_path / "run").exists()


GOOD = {"a": entry(0, 4), "b": entry(4, 6)}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", errors.TruncatedFile),
        (b"\x10\x00\x00", errors.TruncatedFile),
        (raw(GOOD, b"12345"), errors.TruncatedFile),
        (raw(GOOD, b"123456", length=10_000), errors.InvalidHeader),
        (raw(GOOD, b"123456", length=2**63), errors.InvalidHeader),
        (raw(b"", b"123456"), errors.InvalidHeader),
        (raw(b" " + json.dumps(GOOD).encode(), b"123456"), errors.InvalidHeader),
        (raw(b"[1, 2]", b""), errors.InvalidHeader),
        (raw(b'{"a": ', b""), errors.InvalidHeader),
        (raw(b"{" + b'"a":{' * 5_000, b""), errors.InvalidHeader),
        (raw({"a": {"b": {"c": {"d": {"e": 1}}}}}), errors.InvalidHeader),
        (raw({}), errors.InvalidModel),
        (raw({"a": entry(0, 4), "b": entry(2, 6)}, b"123456"), errors.OverlappingTensors),
        (raw({"a": entry(0, 4), "b": entry(0, 4)}, b"1234"), errors.OverlappingTensors),
        (raw({"a": entry(0, 4), "b": entry(5, 6)}, b"123456"), errors.OverlappingTensors),
        (raw({"a": entry(1, 4)}, b"1234"), errors.OverlappingTensors),
        (raw(GOOD, b"1234567"), errors.OverlappingTensors),
        (
            raw(b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), b"1234"),
            errors.DuplicateKeys,
        ),
        (raw({"a": entry(0, 4, shape=[5])}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4, dtype="F8")}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4, dtype=3)}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4, shape=[-4])}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4, shape=[4.0])}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4, shape=[True, 4])}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4, shape="4")}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4, shape=[1] * 9)}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 0, shape=[0, 2**62])}, b""), errors.InvalidHeader),
        (raw({"a": {**entry(0, 4), "x": 1}}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4) | {"data_offsets": [4, 0]}}, b"1234"), errors.InvalidHeader),
        (raw({"a": entry(0, 4) | {"data_offsets": [0, 4, 4]}}, b"1234"), errors.InvalidHeader),
        (raw({"../../etc/x": entry(0, 4)}, b"1234"), errors.InvalidHeader),
        (raw({"a\0b": entry(0, 4)}, b"1234"), errors.InvalidHeader),
        (raw({"a" * 257: entry(0, 4)}, b"1234"), errors.InvalidHeader),
        (raw({"": entry(0, 4)}, b"1234"), errors.InvalidHeader),
        (raw({**GOOD, "__metadata__": {"a": 1}}, b"123456"), errors.InvalidHeader),
        (raw({**GOOD, "__metadata__": {"a": "x" * 70_000}}, b"123456"), errors.InvalidHeader),
        (raw(b"{" + b"[]," * 2_000_000, b""), errors.InvalidHeader),
    ],
)
def test_each_kind_of_damage_has_its_own_error(path, data, error):
    with pytest.raises(error) as caught:
        read(path, data)
    assert type(caught.value) is error


def test_metadata_of_strings_is_taken(path):
    assert len(read(path, raw({**GOOD, "__metadata__": {"format": "pt"}}, b"123456"))) == 2


def test_more_tensors_than_the_limit_are_refused_before_they_are_parsed(path):
    header = b"{" + b",".join(b'"t%d":{}' % i for i in range(120_000)) + b"}"
    with pytest.raises(errors.InvalidHeader, match="50000"):
        read(path, raw(header))
