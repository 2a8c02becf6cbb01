"""Read the columns of text and labels from a parquet file, within limits that its size does not give."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from app.core.errors import InvalidDataset
from app.core.rows import MAX_COLUMNS, MAX_ROW_BYTES, Columns, Row, RowForm, find_form

# A few packed bytes may stand for any number of equal rows.
_MAX_TOTAL_BYTES = 2 * 1024**3
_MAX_ROWS = 50_000_000
_ROWS_AT_ONCE = 256
# Each row of a batch may be as long as its whole column: a delta encoding writes what rows share once.
_MAX_BATCH_BYTES = 2**28


def read_parquet_rows(path: Path, columns: Columns, *, split: str, task: str) -> Iterator[Row]:
    """Yield the samples one by one; `line` in an error is the row, counted from 1.

    Raises InvalidDataset, EmptyDataset or LabelsOutOfRange.
    """
    try:
        schema = _check_frame(path, split)
        form = find_form(list(schema.names), columns, split=split, task=task)
        texts = [name for name in (form.text, form.text_pair) if name is not None]
        _check_types(schema, texts, split, label=form.label)
        deltas = _measure_deltas(path, texts)
        # Texts stay packed as the file has them: a long one that a million rows share is one text in memory.
        packed = [name for name in texts if name not in deltas]
        file = pyarrow.parquet.ParquetFile(path, read_dictionary=packed)
        wanted = list(dict.fromkeys([*texts, *filter(None, [form.label])]))
        at_once = max(1, min(_ROWS_AT_ONCE, _MAX_BATCH_BYTES // max([1, *deltas.values()])))
        yield from _read_batches(file, form, wanted, at_once)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0][:300]
        raise InvalidDataset(f"split {split} cannot be read as parquet: {reason}") from error


def _measure_deltas(path: Path, names: list[str]) -> dict[str, int]:
    """Return the bytes of the longest chunk of each column that is encoded by deltas, as some writers do.

    pyarrow cannot keep those packed.
    """
    found: dict[str, int] = {}
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for chunk in map(group.column, range(group.num_columns)):
            is_delta = any(encoding.startswith("DELTA_") for encoding in chunk.encodings)
            if is_delta and chunk.path_in_schema in names:
                size_bytes = max(chunk.total_uncompressed_size, found.get(chunk.path_in_schema, 0))
                found[chunk.path_in_schema] = size_bytes
    return found


def _read_batches(
    file: "pyarrow.parquet.ParquetFile", form: RowForm, wanted: list[str], at_once: int
) -> Iterator[Row]:
    number, total = 0, 0
    for batch in file.iter_batches(batch_size=at_once, columns=wanted, use_threads=False):
        for i in range(batch.num_rows):
            number += 1
            row = form.read(number, {name: batch.column(name)[i].as_py() for name in wanted})
            length = len(row.text) + len(row.text_pair or "")
            total += length
            if length > MAX_ROW_BYTES or total > _MAX_TOTAL_BYTES:
                raise InvalidDataset(
                    f"split {form.split}, line {number}: a row has at most {MAX_ROW_BYTES} characters, all "
                    f"rows together {_MAX_TOTAL_BYTES}"
                )
            yield row


def _check_frame(path: Path, split: str) -> "pyarrow.Schema":
    file = pyarrow.parquet.ParquetFile(path)
    found = file.metadata
    if found.num_columns > MAX_COLUMNS or found.num_rows > _MAX_ROWS:
        raise InvalidDataset(
            f"split {split} has {found.num_rows} rows of {found.num_columns} columns; at most {_MAX_ROWS} "
            f"rows of {MAX_COLUMNS} are taken"
        )
    total_bytes = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
    if total_bytes > _MAX_TOTAL_BYTES:
        raise InvalidDataset(
            f"split {split} unpacks to {total_bytes} bytes; at most {_MAX_TOTAL_BYTES} are taken"
        )
    return file.schema_arrow


def _check_types(schema: "pyarrow.Schema", texts: list[str], split: str, *, label: str | None) -> None:
    for name in texts:
        found = _type_of(schema, name)
        if not (pyarrow.types.is_string(found) or pyarrow.types.is_large_string(found)):
            raise InvalidDataset(f"split {split}: column {name!r} holds {found}; expected strings")
    if label is not None:
        found = _type_of(schema, label)
        if not (pyarrow.types.is_integer(found) or pyarrow.types.is_floating(found)):
            raise InvalidDataset(f"split {split}: column {label!r} holds {found}; expected numbers")


def _type_of(schema: "pyarrow.Schema", name: str) -> "pyarrow.DataType":
    if schema.names.count(name) > 1:
        raise InvalidDataset(f"there are two columns called {name!r}")
    found = schema.field(name).type
    return found.value_type if pyarrow.types.is_dictionary(found) else found
