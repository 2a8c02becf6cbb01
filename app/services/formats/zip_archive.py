"""Read zip archives that hold to the letter of the format, and refuse every known trick.

Central directory and local headers must agree, entries lie one after the other with nothing between, before
or after them, names are plain and differ, nothing is encrypted, no entry gives more bytes than it declared.
APPNOTE 6.3.10, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from app.core.errors import InvalidDataset, TruncatedFile

MAX_ENTRIES = 64
_MAX_DIRECTORY_BYTES = 64 * 1024
_STORED, _DEFLATED = 0, 8
_ZIP64_VERSION = 45  # 4.5, the newest that storing, deflating and zip64 need
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,199}")
# Bits 1 and 2 are hints of the compressor, bit 11 says that the name is UTF-8.
_ALLOWED_FLAGS = 0b1000_0000_0110
_CHUNK_BYTES = 1 << 20
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFF_FFFF


@dataclass(frozen=True)
class Entry:
    """One file of the archive; `start` is where its (compressed) bytes begin."""

    name: str
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    start: int


@dataclass(frozen=True)
class _Record:
    """One header as written, central or local; sizes already taken from the zip64 field where it has them."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    offset: int


def read_entries(file: BinaryIO, *, max_total_bytes: int) -> dict[str, Entry]:
    """Return the entries by name; raises TruncatedFile or InvalidDataset saying which rule is broken."""
    size = file.seek(0, 2)
    directory_start, directory_bytes, count = _find_directory(file, size)
    records = _read_directory(_read_at(file, directory_start, directory_bytes), count)
    _check_names(records)
    total = sum(record.size_bytes for record in records)
    if total > max_total_bytes:
        raise InvalidDataset(f"the archive unpacks to {total} bytes; at most {max_total_bytes} are taken")
    entries: dict[str, Entry] = {}
    at = 0
    for record in sorted(records, key=lambda record: record.offset):
        if record.offset != at:
            raise InvalidDataset(
                f"the archive has entries that overlap or leave gaps, at byte {min(at, record.offset)}"
            )
        entry = _check_local(file, record)
        at = entry.start + entry.packed_bytes
        entries[entry.name] = entry
    if at != directory_start:
        raise InvalidDataset("the archive has bytes between its last entry and its directory")
    return entries


def open_entry(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield the bytes of an entry in pieces; raises InvalidDataset when they are not those declared."""
    crc, given = 0, 0
    for piece in _unpack(file, entry):
        crc = zlib.crc32(piece, crc)
        given += len(piece)
        if given > entry.size_bytes:
            break
        yield piece
    if given != entry.size_bytes:
        raise InvalidDataset(f"{entry.name} does not unpack to the {entry.size_bytes} bytes that it declares")
    if crc != entry.crc:
        raise InvalidDataset(f"{entry.name} is damaged: its checksum does not fit")


def _unpack(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield what the packed bytes hold, at most one piece more than declared."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == _DEFLATED else None
    at, end = entry.start, entry.start + entry.packed_bytes
    while at < end:
        file.seek(at)
        packed = file.read(min(_CHUNK_BYTES, end - at))
        if not packed:
            raise TruncatedFile(f"the archive ends inside {entry.name}")
        at += len(packed)
        if inflater is None:
            yield packed
            continue
        try:
            while packed:
                yield inflater.decompress(packed, _CHUNK_BYTES)
                packed = inflater.unconsumed_tail
        except zlib.error as error:
            raise InvalidDataset(f"{entry.name} is damaged: {error}") from error
        if inflater.unused_data:
            raise InvalidDataset(f"{entry.name} has bytes after its end")
    if inflater is not None:
        yield from _drain(inflater, entry)


def _drain(inflater: "zlib._Decompress", entry: Entry) -> Iterator[bytes]:
    try:
        while piece := inflater.decompress(inflater.unconsumed_tail, _CHUNK_BYTES):
            yield piece
    except zlib.error as error:
        raise InvalidDataset(f"{entry.name} is damaged: {error}") from error
    if not inflater.eof:
        raise InvalidDataset(f"{entry.name} is damaged: its packed bytes end too early")


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return where the central directory lies, its length, and the number of entries."""
    if size < _END.size:
        raise TruncatedFile(f"a zip archive has at least {_END.size} bytes, this file has {size}")
    signature, disk, first_disk, here, count, length, start, comment = _END.unpack(
        _read_at(file, size - _END.size, _END.size)
    )
    if signature != b"PK\x05\x06":
        raise TruncatedFile("the archive has no directory at its end: it is cut off, or something follows it")
    if disk or first_disk or here != count or comment:
        raise InvalidDataset("archives of several disks or with a comment are not taken")
    end = size - _END.size
    if start == _FULL32 or length == _FULL32 or count == _FULL16:
        start, length, count, end = _find_directory64(file, end)
    if not 0 < count <= MAX_ENTRIES or length > _MAX_DIRECTORY_BYTES:
        raise InvalidDataset(f"the archive has {count} entries; expected 1 to {MAX_ENTRIES}")
    # A zip64 record may lie between directory and end even where the short one says it all.
    if start + length not in (end, end - _END64.size - _END64_LOCATOR.size):
        raise InvalidDataset("the archive has bytes between its directory and its end")
    return start, length, count


def _find_directory64(file: BinaryIO, end: int) -> tuple[int, int, int, int]:
    at = end - _END64_LOCATOR.size
    if at < _END64.size:
        raise TruncatedFile("the archive has no zip64 directory where it says so")
    signature, disk, record_at, disks = _END64_LOCATOR.unpack(_read_at(file, at, _END64_LOCATOR.size))
    if signature != b"PK\x06\x07" or disk or disks != 1 or record_at != at - _END64.size:
        raise InvalidDataset("the archive's zip64 directory is not right before its end")
    record = _END64.unpack(_read_at(file, record_at, _END64.size))
    signature, length, _, _, disk, first_disk, here, count, directory_bytes, start = record
    if signature != b"PK\x06\x06" or length != _END64.size - 12 or disk or first_disk or here != count:
        raise InvalidDataset("the archive's zip64 directory is not valid")
    return start, directory_bytes, count, record_at


def _read_directory(directory: bytes, count: int) -> list[_Record]:
    records: list[_Record] = []
    at = 0
    while at < len(directory) and len(records) <= count:
        fields = _unpack_header(_CENTRAL, directory, at)
        signature, _, version, flags, method, _, _, crc, packed, size = fields[:10]
        name_bytes, extra_bytes, comment_bytes, disk, _, mode, offset = fields[10:]
        at += _CENTRAL.size
        name, extra = (
            directory[at : at + name_bytes],
            directory[at + name_bytes : at + name_bytes + extra_bytes],
        )
        at += name_bytes + extra_bytes + comment_bytes
        if signature != b"PK\x01\x02" or disk or comment_bytes or at > len(directory):
            raise InvalidDataset("the archive's directory is not valid")
        if version & 0xFF > _ZIP64_VERSION:  # the high byte names a system
            raise InvalidDataset(
                f"{name!a} asks for zip version {(version & 0xFF) / 10}; at most 4.5 is read"
            )
        if (mode >> 28) not in (0, 0x8):  # a regular file, or no Unix mode at all
            raise InvalidDataset(f"{name!a} is a link, a folder or a device")
        size, packed, offset = _read_extra64(extra, [size, packed, offset])
        records.append(_Record(name, flags, method, crc, packed, size, offset))
    if len(records) != count or at != len(directory):
        raise InvalidDataset(f"the archive's directory does not hold the {count} entries that it declares")
    return records


def _check_names(records: list[_Record]) -> None:
    seen: set[str] = set()
    for record in records:
        name = record.name.decode("latin-1")
        if not _NAME.fullmatch(name) or ".." in name:
            raise InvalidDataset(f"{name[:100]!a} cannot be the name of an array")
        if name.casefold() in seen:
            raise InvalidDataset(f"the archive holds {name!r} twice")
        seen.add(name.casefold())


def _check_local(file: BinaryIO, record: _Record) -> Entry:
    """Compare the local header with the directory's and find where the bytes begin."""
    header = _read_at(file, record.offset, _LOCAL.size)
    signature, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _unpack_header(
        _LOCAL, header, 0
    )
    names = _read_at(file, record.offset + _LOCAL.size, name_bytes + extra_bytes)
    size, packed = _read_extra64(names[name_bytes:], [size, packed])
    name = record.name.decode("latin-1")
    found = (signature, flags, method, crc, packed, size, names[:name_bytes])
    said = (
        b"PK\x03\x04",
        record.flags,
        record.method,
        record.crc,
        record.packed_bytes,
        record.size_bytes,
        record.name,
    )
    if found != said:
        raise InvalidDataset(f"{name}: the archive's directory and the entry's own header differ")
    if flags & ~_ALLOWED_FLAGS or method not in (_STORED, _DEFLATED):
        raise InvalidDataset(
            f"{name} is encrypted, written as a stream, or packed by another method than deflate"
        )
    if method == _STORED and packed != size:
        raise InvalidDataset(f"{name} is stored, but its two sizes differ")
    start = record.offset + _LOCAL.size + name_bytes + extra_bytes
    return Entry(name, method, crc, packed, size, start)


def _read_extra64(extra: bytes, values: list[int]) -> list[int]:
    """Replace sizes that are full (all ones) by those of the zip64 field, in its order."""
    wide = b""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    if at != len(extra):
        raise InvalidDataset("the archive has a header whose extra fields are not valid")
    read: list[int] = []
    for value in values:
        if value == _FULL32:
            if len(wide) < 8:
                raise InvalidDataset("the archive has a header without the zip64 field that it needs")
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        read.append(value)
    return read


def _unpack_header(
    layout: struct.Struct, data: bytes, at: int
) -> tuple[Any, ...]:  # Any: bytes and integers, as the layout says
    if at + layout.size > len(data):
        raise TruncatedFile("the archive ends inside a header")
    return layout.unpack_from(data, at)


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise TruncatedFile(
            f"the archive ends at byte {offset + len(data)}, expected {offset + length} at least"
        )
    return data
