"""Check a safetensors file by its header, stricter than the library that reads it later.

Layout: 8 bytes little-endian length n, n bytes of JSON {name: {dtype, shape, data_offsets}}, then the data.
https://huggingface.co/docs/safetensors/index#format
"""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from app.core.errors import (
    DuplicateKeys,
    InvalidHeader,
    InvalidModel,
    OverlappingTensors,
    PickleRefused,
    TruncatedFile,
)
from app.services import strict_json

MAX_HEADER_BYTES = 25 * 1024**2
MAX_TENSORS = 50_000
MAX_DIMENSIONS = 8
MAX_DIMENSION = 2**31 - 1
MAX_METADATA_BYTES = 64 * 1024
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")
_LENGTH_BYTES = 8
# Headers of JSON bombs are counted before they are parsed: a Python object costs 50 times its two bytes.
_MAX_COUNTS = {b"{": MAX_TENSORS + 65_536, b"[": 2 * MAX_TENSORS + 65_536, b",": 20 * MAX_TENSORS}


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file; `begin` and `end` count from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_tensors(path: Path) -> tuple[Tensor, ...]:
    """Return the tensors of a sound file in the order of their bytes; raises what is wrong with it.

    PickleRefused, TruncatedFile, InvalidHeader, DuplicateKeys, OverlappingTensors or InvalidModel.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 1)
        _refuse_pickle(start)
        length = _read_length(start, size)
        file.seek(_LENGTH_BYTES)
        header = file.read(length)
    tensors = _read_header(header)
    _check_offsets(tensors, data_bytes=size - _LENGTH_BYTES - length)
    return tensors


def _refuse_pickle(start: bytes) -> None:
    is_zip = start.startswith(b"PK\x03\x04")
    # 80 02 … 80 05 opens a pickle, and also a safetensors header of 640, 896, … bytes: that has "{" next.
    is_pickle = (
        start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and start[8:] != b"{"
    )
    if is_zip or is_pickle:
        raise PickleRefused(
            "this is a pickle (a .pt file of torch.save?), which could run code when read; "
            "save the weights with safetensors.torch.save_file(model.state_dict(), path) instead"
        )


def _read_length(start: bytes, size: int) -> int:
    if len(start) < _LENGTH_BYTES:
        raise TruncatedFile(f"a safetensors file has at least {_LENGTH_BYTES} bytes, this one has {size}")
    (length,) = struct.unpack("<Q", start[:_LENGTH_BYTES])
    if length > size - _LENGTH_BYTES:
        raise InvalidHeader(
            f"the header claims {length} bytes, the file has {size - _LENGTH_BYTES} after the length"
        )
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise InvalidHeader(f"the header claims {length} bytes; expected 2 to {MAX_HEADER_BYTES}")
    return int(length)


def _read_header(header: bytes) -> tuple[Tensor, ...]:
    if header[:1] != b"{":
        raise InvalidHeader("the header must start with '{'")
    for character, most in _MAX_COUNTS.items():
        if header.count(character) > most:
            raise InvalidHeader(f"the header holds more than {MAX_TENSORS} tensors or an odd structure")
    try:
        parsed = strict_json.parse(header, max_depth=4)
    except strict_json.NotJson as error:
        raise InvalidHeader(f"the header is not JSON: {error}") from error
    for fault in parsed.faults:
        if fault.code == "duplicate_name":
            raise DuplicateKeys(f"in the header, {fault.detail}")
        raise InvalidHeader(f"the header is not valid at {fault.pointer}: {fault.detail}")
    if not isinstance(parsed.value, dict):
        raise InvalidHeader("the header is not a JSON object")
    return _read_entries(parsed.value)


def _read_entries(header: dict[str, JsonValue]) -> tuple[Tensor, ...]:
    _check_metadata(header.pop("__metadata__", {}))
    if not header:
        raise InvalidModel("the file holds no tensors")
    if len(header) > MAX_TENSORS:
        raise InvalidHeader(f"the file holds {len(header)} tensors; at most {MAX_TENSORS} are taken")
    tensors = [_read_entry(name, entry) for name, entry in header.items()]
    return tuple(sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)))


def _check_metadata(metadata: JsonValue) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InvalidHeader("__metadata__ must be an object of strings")
    if sum(len(key) + len(str(value)) for key, value in metadata.items()) > MAX_METADATA_BYTES:
        raise InvalidHeader(f"__metadata__ is longer than {MAX_METADATA_BYTES} bytes")


def _read_entry(name: str, entry: JsonValue) -> Tensor:
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidHeader(f"{name[:100]!a} cannot be the name of a tensor")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InvalidHeader(f"tensor {name}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise InvalidHeader(f"tensor {name}: dtype {dtype!r} is none of {', '.join(DTYPE_BYTES)}")
    sizes = _read_integers(shape, most=MAX_DIMENSION)
    if sizes is None or len(sizes) > MAX_DIMENSIONS:
        raise InvalidHeader(
            f"tensor {name}: shape must be at most {MAX_DIMENSIONS} integers from 0 to {MAX_DIMENSION}"
        )
    places = _read_integers(offsets, most=2**63 - 1)
    if places is None or len(places) != 2:
        raise InvalidHeader(f"tensor {name}: data_offsets must be two integers, begin and end")
    tensor = Tensor(name, dtype, sizes, *places)
    expected = tensor.elements * DTYPE_BYTES[dtype]
    if tensor.end - tensor.begin != expected:
        raise InvalidHeader(
            f"tensor {name}: {dtype} {list(sizes)} takes {expected} bytes, its data_offsets span "
            f"{tensor.end - tensor.begin}"
        )
    return tensor


def _read_integers(values: JsonValue, *, most: int) -> tuple[int, ...] | None:
    if not isinstance(values, list):
        return None
    found = tuple(value for value in values if type(value) is int and 0 <= value <= most)
    return found if len(found) == len(values) else None


def _check_offsets(tensors: tuple[Tensor, ...], *, data_bytes: int) -> None:
    needed = max(tensor.end for tensor in tensors)
    if needed > data_bytes:
        raise TruncatedFile(f"the header needs {needed} bytes of data, the file has {data_bytes}")
    at = 0
    for tensor in tensors:
        if tensor.begin != at:
            fault = "overlaps the tensor before it" if tensor.begin < at else "leaves a gap before it"
            raise OverlappingTensors(
                f"tensor {tensor.name} begins at {tensor.begin}, expected {at}: it {fault}"
            )
        at = tensor.end
    if at != data_bytes:
        raise OverlappingTensors(f"{data_bytes - at} bytes after the last tensor belong to none")
