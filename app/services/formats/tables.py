"""Check a split of text: csv and jsonl row by row, plain text as a whole, of parquet the frame alone.

Parquet is packed by column: reading it takes a library that the service does not load, so a worker does.
"""

import codecs
from pathlib import Path

from app.core.errors import EmptyDataset, InvalidDataset, TruncatedFile
from app.core.rows import Columns, read_rows
from app.services.formats.labels import LabelCounter, SplitFacts

_CHUNK_BYTES = 1 << 20
_MAGIC = b"PAR1"
# Magic, an empty footer's length, magic.
_LEAST_PARQUET_BYTES = 12
_LABELS_AT_ONCE = 4096


def read_split(path: Path, split: str, *, form: str, task: str, columns: Columns) -> SplitFacts:
    """Return what a sound split holds; raises what is wrong with it, naming split, line and column.

    InvalidDataset, TruncatedFile, EmptyDataset or LabelsOutOfRange.
    """
    if form == "parquet":
        return _read_parquet(path, split)
    if form == "text":
        return _read_text(path, split)
    return _read_rows(path, split, form=form, task=task, columns=columns)


def _read_rows(path: Path, split: str, *, form: str, task: str, columns: Columns) -> SplitFacts:
    n = 0
    seen = LabelCounter(are_classes=task != "regression")
    labels: list[int | float] = []
    for row in read_rows(path, form, columns, split=split, task=task):
        n += 1
        if row.label is not None:
            labels.append(row.label)
        if len(labels) == _LABELS_AT_ONCE:
            seen.add(labels)
            labels.clear()
    if labels:
        seen.add(labels)
    if n == 0:
        raise EmptyDataset(f"split {split} holds no samples")
    # Language modeling cuts the joined text anew: its samples are not the rows.
    return SplitFacts(n=None if task == "language-modeling" else n, labels=seen.range())


def _read_text(path: Path, split: str) -> SplitFacts:
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    is_blank = True
    at = 0
    with path.open("rb") as file:
        while True:
            piece = file.read(_CHUNK_BYTES)
            if b"\0" in piece:
                raise InvalidDataset(
                    f"split {split} holds a NUL byte at {at + piece.index(0)}: is this UTF-16, or no text?"
                )
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                raise InvalidDataset(
                    f"split {split} is not UTF-8: {error.reason}, near byte {at + error.start}"
                ) from error
            is_blank = is_blank and not text.strip("\ufeff \t\r\n")
            at += len(piece)
            if not piece:
                break
    if is_blank:
        raise EmptyDataset(f"split {split} holds no text")
    return SplitFacts(n=None)


def _read_parquet(path: Path, split: str) -> SplitFacts:
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise InvalidDataset(f"split {split} is not a parquet file: it does not begin with PAR1")
        if size < _LEAST_PARQUET_BYTES:
            raise TruncatedFile(f"split {split}: a parquet file has at least {_LEAST_PARQUET_BYTES} bytes")
        file.seek(size - 8)
        end = file.read(8)
    if end[4:] != _MAGIC:
        found = "encrypted" if end[4:] == b"PARE" else "cut off, or something follows its end"
        raise TruncatedFile(f"split {split}: the parquet file does not end with PAR1: it is {found}")
    footer_bytes = int.from_bytes(end[:4], "little")
    if not 0 < footer_bytes <= size - _LEAST_PARQUET_BYTES:
        raise InvalidDataset(
            f"split {split}: the parquet footer claims {footer_bytes} bytes of a file that has {size}"
        )
    return SplitFacts(n=None)
