"""Read rows of csv and jsonl: what the service checks at the upload is what a worker reads later."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import Field

from app.core.errors import InvalidDataset, LabelsOutOfRange
from app.core.strict import Strict

MAX_ROW_BYTES = 1 << 20
MAX_COLUMNS = 1000
MAX_CLASSES = 100_000
TEXT_NAMES = ("text", "sentence")
LABEL_NAME = "label"
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BOM = b"\xef\xbb\xbf"
_SHOWN_CHARACTERS = 60

Record = Mapping[str, object]


class Columns(Strict):
    """Which columns hold what; by default the text is in `text` or `sentence`, the label in `label`."""

    text: str | None = Field(default=None, min_length=1, max_length=200)
    text_pair: str | None = Field(default=None, min_length=1, max_length=200)
    label: str | None = Field(default=None, min_length=1, max_length=200)


@dataclass(frozen=True)
class Row:
    """One sample; the label is a class, a number, or None where the task has none."""

    text: str
    text_pair: str | None
    label: int | float | None


@dataclass(frozen=True)
class RowForm:
    """Where a task finds its parts in a record: the names of columns that are there."""

    split: str
    task: str
    text: str
    text_pair: str | None
    label: str | None

    def read(self, number: int, record: Record) -> Row:
        """Return the sample of a record; raises InvalidDataset or LabelsOutOfRange, naming the place."""
        pair = None if self.text_pair is None else self._read_text(number, self.text_pair, record)
        label = None if self.label is None else self._read_label(number, self.label, record)
        return Row(self._read_text(number, self.text, record), pair, label)

    def _read_text(self, number: int, name: str, record: Record) -> str:
        value = record.get(name)
        if not isinstance(value, str):
            raise self._fault(number, name, "text", value)
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise self._fault(number, name, "text without NUL and half surrogate pairs", value)
        return value

    def _read_label(self, number: int, name: str, record: Record) -> int | float:
        value = record.get(name)
        if self.task == "regression":
            return self._read_number(number, name, value)
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._fault(number, name, "a class, an integer from 0", value)
        if not 0 <= value < MAX_CLASSES:
            raise LabelsOutOfRange(
                f"{self._place(number, name)}: found the label {value}; labels go from 0 to {MAX_CLASSES - 1}"
            )
        return value

    def _read_number(self, number: int, name: str, value: object) -> float:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        # A label is kept in float32.
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 3.4e38:
            raise self._fault(number, name, "a finite number", value)
        return float(value)

    def _fault(self, number: int, name: str, expected: str, found: object) -> InvalidDataset:
        shown = "nothing" if found is None else ascii(found)[:_SHOWN_CHARACTERS]
        return InvalidDataset(f"{self._place(number, name)}: expected {expected}, found {shown}")

    def _place(self, number: int, name: str) -> str:
        return f"split {self.split}, line {number}, column {name!r}"


def find_form(names: list[str], columns: Columns, *, split: str, task: str) -> RowForm:
    """Find a task's columns among those that are there; raises InvalidDataset, naming what is missing."""
    defaults = [name for name in TEXT_NAMES if name in names]
    text = columns.text or (defaults[0] if defaults else TEXT_NAMES[0])
    label = None if task == "language-modeling" else columns.label or LABEL_NAME
    for wanted in filter(None, (text, columns.text_pair, label)):
        if wanted not in names:
            found = ", ".join(name[:_SHOWN_CHARACTERS] for name in names[:20]) or "none"
            raise InvalidDataset(
                f"split {split} has no column {wanted!r}; it has: {found} (name others in `columns`)"
            )
    return RowForm(split, task, text, columns.text_pair, label)


def read_rows(path: Path, form: str, columns: Columns, *, split: str, task: str) -> Iterator[Row]:
    """Yield the samples of a csv or jsonl file one by one; raises what is wrong, naming line and column."""
    with path.open("rb") as file:
        lines = _Lines(file, split)
        records = _read_csv(lines, split) if form == "csv" else _read_jsonl(lines, split)
        found: RowForm | None = None
        for number, record in records:
            found = found or find_form(list(record), columns, split=split, task=task)
            yield found.read(number, record)


class _Lines:
    """The lines of a file as text, and how many bytes the present row has taken so far."""

    def __init__(self, file: BinaryIO, split: str) -> None:
        self._file, self._split = file, split
        self.number = 0
        self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.row_bytes += len(line)
        place = f"split {self._split}, line {self.number}"
        if self.row_bytes > MAX_ROW_BYTES:
            raise InvalidDataset(f"{place}: a row has at most {MAX_ROW_BYTES} bytes")
        if self.number == 1:
            line = line.removeprefix(_BOM)
        if b"\0" in line:
            raise InvalidDataset(f"{place} holds a NUL byte: is this UTF-16, or no text at all?")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidDataset(f"{place} is not UTF-8: {error.reason} at byte {error.start}") from error


def _read_csv(lines: _Lines, split: str) -> Iterator[tuple[int, Record]]:
    # One number for the process; rows are counted by their bytes too, since a row has many fields.
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(lines, strict=True)
    names: list[str] = []
    while True:
        lines.row_bytes = 0
        number = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InvalidDataset(f"split {split}, line {number} is not valid csv: {error}") from error
        if not fields:
            continue
        if not names:
            names = _check_header(fields, split)
        elif len(fields) != len(names):
            raise InvalidDataset(
                f"split {split}, line {number}: expected {len(names)} fields as in the first line, "
                f"found {len(fields)}"
            )
        else:
            yield number, dict(zip(names, fields, strict=True))


def _check_header(fields: list[str], split: str) -> list[str]:
    if len(fields) > MAX_COLUMNS:
        raise InvalidDataset(f"split {split} has {len(fields)} columns; at most {MAX_COLUMNS} are taken")
    for name in fields:
        if fields.count(name) > 1:
            raise InvalidDataset(f"split {split} has two columns called {name[:_SHOWN_CHARACTERS]!a}")
    return fields


def _read_jsonl(lines: _Lines, split: str) -> Iterator[tuple[int, Record]]:
    for line in lines:
        lines.row_bytes = 0
        if not line.strip():
            continue
        place = f"split {split}, line {lines.number}"
        try:
            record = json.loads(line, object_pairs_hook=_read_object, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
            raise InvalidDataset(f"{place} is not valid JSON: {reason}") from error
        if not isinstance(record, dict):
            raise InvalidDataset(f'{place}: expected an object such as {{"text": "…", "label": 0}}')
        yield lines.number, record


def _read_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
