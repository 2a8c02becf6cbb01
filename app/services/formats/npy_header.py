"""Read the header of a .npy array with a regular expression: nothing in it is evaluated.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
import re
from dataclasses import dataclass

from app.core.errors import InvalidDataset, ObjectArrayRefused, TruncatedFile

MAX_HEADER_BYTES = 10_000
_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': (?P<descr>.+?), 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[0-9]{1,19}(?:, [0-9]{1,19}){0,7},?|)\), \}[ ]*\n"
)
_DTYPE = re.compile(r"'(?P<order>[<>|=])(?P<kind>[a-zA-Z])(?P<bytes>[0-9]{1,4})'")


@dataclass(frozen=True)
class NpyHeader:
    """`dtype` as numpy writes it without the byte order (`f4`, `u1`); the data begins at `data_start`."""

    dtype: str
    is_big_endian: bool
    shape: tuple[int, ...]
    data_start: int

    @property
    def item_bytes(self) -> int:
        # Text is counted in characters, of four bytes each.
        return int(self.dtype[1:]) * (4 if self.dtype[0] == "U" else 1)

    @property
    def size_bytes(self) -> int:
        return self.data_start + math.prod(self.shape) * self.item_bytes


def read_header(start: bytes, name: str) -> NpyHeader:
    """Read the header in the first bytes of an array; raises ObjectArrayRefused or InvalidDataset.

    `start` holds MAX_HEADER_BYTES + 12 bytes, or all of a shorter array.
    """
    if not start.startswith(_MAGIC) or len(start) < 12:
        raise InvalidDataset(f"{name} is not an array in .npy format")
    version = start[6]
    if version not in (1, 2, 3) or start[7] != 0:
        raise InvalidDataset(
            f"{name} has version {start[6]}.{start[7]} of the .npy format; there are 1.0, 2.0 and 3.0"
        )
    lead = 10 if version == 1 else 12
    length = int.from_bytes(start[8:lead], "little")
    if length > MAX_HEADER_BYTES:
        raise InvalidDataset(f"{name} has a header of {length} bytes; at most {MAX_HEADER_BYTES} are read")
    header = start[lead : lead + length]
    if len(header) < length:
        raise TruncatedFile(f"{name} ends inside its header")
    return _read_text(header.decode("latin-1"), name, data_start=lead + length)


def _read_text(text: str, name: str, *, data_start: int) -> NpyHeader:
    found = _HEADER.fullmatch(text)
    if found is None:
        raise InvalidDataset(f"{name} has a header that numpy does not write: {text[:100]!a}")
    descr = found["descr"]
    dtype = _DTYPE.fullmatch(descr)
    if (dtype and dtype["kind"] == "O") or re.search(r"'[|<>=]?O[0-9]*'", descr):
        raise ObjectArrayRefused(f"{name} is an array of Python objects, which would have to be unpickled")
    if dtype is None:
        raise InvalidDataset(f"{name} has the dtype {descr[:100]!a}; expected one number a value")
    return NpyHeader(
        dtype=dtype["kind"] + dtype["bytes"],
        is_big_endian=dtype["order"] == ">",
        shape=tuple(int(n) for n in found["shape"].split(",") if n.strip()),
        data_start=data_start,
    )
