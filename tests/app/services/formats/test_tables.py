"""The check of text splits: rows are counted, labels ranged; of parquet the frame must be sound."""

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from app.core.errors import EmptyDataset, InvalidDataset, TruncatedFile
from app.core.rows import Columns
from app.services.formats.labels import LabelRange, SplitFacts
from app.services.formats.tables import read_split


def read(folder: Path, data: bytes, form: str = "csv", task: str = "text-classification") -> SplitFacts:
    path = folder / "split"
    path.write_bytes(data)
    return read_split(path, "test", form=form, task=task, columns=Columns())


def parquet_bytes(**columns: list) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def test_rows_are_counted_and_their_labels_ranged(tmp_path):
    data = b"text,label\n" + b"a,0\nb,2\nc,1\n" * 3000
    assert read(tmp_path, data) == SplitFacts(n=9000, labels=LabelRange(0, 2, 3))


def test_labels_with_a_gap_are_not_taken_for_classes(tmp_path):
    assert read(tmp_path, b"text,label\na,0\nb,5\n").labels == LabelRange(0, 5, None)


def test_numbers_have_a_range_and_no_classes(tmp_path):
    facts = read(tmp_path, b"text,label\na,0.5\nb,-2\n", task="regression")
    assert facts == SplitFacts(n=2, labels=LabelRange(-2.0, 0.5, None))


def test_of_running_text_the_samples_are_not_known_yet(tmp_path):
    assert read(tmp_path, b"text\na\n", task="language-modeling") == SplitFacts(n=None)
    assert read(tmp_path, "some text, ünïcode\n".encode(), "text", "language-modeling") == SplitFacts(n=None)


def test_of_parquet_only_the_frame_is_read(tmp_path):
    assert read(tmp_path, parquet_bytes(text=["a"], label=[0]), "parquet") == SplitFacts(n=None)


@pytest.mark.parametrize(
    ("form", "data"),
    [("csv", b""), ("csv", b"text,label\n"), ("jsonl", b"\n\n"), ("text", b"\xef\xbb\xbf \n")],
)
def test_a_split_without_samples_is_empty(tmp_path, form, data):
    task = "language-modeling" if form == "text" else "text-classification"
    with pytest.raises(EmptyDataset, match="split test"):
        read(tmp_path, data, form, task)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"abc\0def", "NUL byte at 3"),
        (b"abc\xff", "not UTF-8"),
        (b"abc" + "é".encode()[:1], "not UTF-8"),
        (b"a" * (1 << 20) + b"\xff", "near byte 1048576"),
    ],
)
def test_text_that_is_no_utf8_is_refused_with_its_place(tmp_path, data, says):
    with pytest.raises(InvalidDataset, match=says):
        read(tmp_path, data, "text", "language-modeling")


def test_a_character_that_two_pieces_share_is_read(tmp_path):
    data = b"a" * ((1 << 20) - 1) + "é".encode()
    assert read(tmp_path, data, "text", "language-modeling").n is None


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda good: b"PK\x03\x04" + good, InvalidDataset, "does not begin with PAR1"),
        (lambda _: b"", InvalidDataset, "does not begin with PAR1"),
        (lambda _: b"PAR1PAR1", TruncatedFile, "at least 12 bytes"),
        (lambda good: good[:-1], TruncatedFile, "does not end with PAR1"),
        (lambda good: good + b"x", TruncatedFile, "does not end with PAR1"),
        (lambda good: good[:-4] + b"PARE", TruncatedFile, "encrypted"),
        (lambda good: good[:-8] + b"\xff\xff\xff\x7fPAR1", InvalidDataset, "footer claims 2147483647 bytes"),
        (lambda good: good[:-8] + b"\0\0\0\0PAR1", InvalidDataset, "footer claims 0 bytes"),
    ],
)
def test_a_file_that_is_no_parquet_is_refused(tmp_path, spoil, error, says):
    with pytest.raises(error, match=says) as caught:
        read(tmp_path, spoil(parquet_bytes(text=["a"], label=[0])), "parquet")
    assert type(caught.value) is error
