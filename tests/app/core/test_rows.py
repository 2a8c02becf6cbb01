"""Rows of csv and jsonl: what was written is what is read, and what is wrong is named by line and column."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidDataset, LabelsOutOfRange
from app.core.rows import MAX_ROW_BYTES, Columns, Row, read_rows

# Unix line ends: csv keeps every other character as it is.
TEXTS = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=30)
ROWS = st.lists(st.tuples(TEXTS, st.integers(0, 99)), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rows") / "file"


def read(path: Path, data: bytes | str, form: str = "csv", **changes) -> list[Row]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    columns = Columns(**changes.pop("columns", {}))
    given = {"split": "test", "task": "text-classification"} | changes
    return list(read_rows(path, form, columns, **given))


def to_csv(rows, names=("text", "label")) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([names, *rows])
    return buffer.getvalue()


def to_jsonl(rows, names=("text", "label")) -> str:
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)


@given(ROWS)
def test_what_was_written_as_csv_or_jsonl_is_what_is_read(path, rows):
    expected = [Row(text, None, label) for text, label in rows]
    assert read(path, to_csv(rows)) == expected
    assert read(path, to_jsonl(rows), "jsonl") == expected


@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl"]))
def test_any_bytes_are_read_or_refused_with_a_reason(path, data, form):
    try:
        rows = read(path, data, form)
    except InvalidDataset:
        return
    assert all(isinstance(row.text, str) and row.label >= 0 for row in rows)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_byte_order_mark_blank_lines_and_windows_line_ends_change_nothing(path, form):
    text = (to_csv if form == "csv" else to_jsonl)([("one", 0), ("two", 1)])
    odd = b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode()
    assert read(path, odd, form) == [Row("one", None, 0), Row("two", None, 1)]


def test_a_quoted_field_may_hold_commas_quotes_and_line_ends(path):
    assert read(path, 'text,label\n"a, ""b""\nc",3\n') == [Row('a, "b"\nc', None, 3)]


def test_the_text_is_found_under_either_of_its_usual_names(path):
    assert read(path, "label,sentence\n1,hello\n") == [Row("hello", None, 1)]


def test_columns_may_have_any_names_and_texts_may_be_pairs(path):
    columns = {"text": "premise", "text_pair": "hypothesis", "label": "gold"}
    rows = read(path, "id,premise,hypothesis,gold\n7,a,b,2\n", columns=columns)
    assert rows == [Row("a", "b", 2)]


def test_the_label_of_regression_is_a_number(path):
    assert [row.label for row in read(path, "text,label\na,-1.5e-3\nb,2\n", task="regression")] == [
        -1.5e-3,
        2.0,
    ]


def test_language_modeling_reads_no_label(path):
    assert read(path, "text,label\na,x\n", task="language-modeling") == [Row("a", None, None)]


@pytest.mark.parametrize(
    ("form", "data", "says"),
    [
        ("csv", b"text,label\nok,1\n\xff\xfe,0\n", "line 3 is not UTF-8"),
        ("csv", "text,label\nok,1\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        ("csv", "text,label\na,1\nb\n", "line 3: expected 2 fields as in the first line, found 1"),
        ("csv", 'text,label\n"open,1\n', "line 2 is not valid csv"),
        ("csv", 'text,label\n"a"b,1\n', "line 2 is not valid csv"),
        ("csv", "text,text,label\n", "two columns called 'text'"),
        ("csv", "x,y\na,1\n", "no column 'text'; it has: x, y"),
        ("csv", "text,y\na,1\n", "no column 'label'"),
        ("csv", "text,label\na,one\n", "line 2, column 'label': expected a class"),
        ("csv", "text,label\na,1.0\n", "line 2, column 'label': expected a class"),
        ("csv", "text,label\na,\n", "line 2, column 'label': expected a class"),
        ("csv", "text,label\na,１\n", "line 2, column 'label': expected a class"),
        ("jsonl", '{"text": "a", "label": true}\n', "line 1, column 'label': expected a class"),
        ("jsonl", '{"text": 3, "label": 1}\n', "line 1, column 'text': expected text, found 3"),
        ("jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2, column 'label'"),
        ("jsonl", '{"text": "\\u0000", "label": 1}\n', "line 1, column 'text': expected text without NUL"),
        ("jsonl", '{"text": "\\ud800", "label": 1}\n', "line 1, column 'text'"),
        ("jsonl", '["a", 1]\n', "line 1: expected an object"),
        (
            "jsonl",
            '{"text": "a", "text": "b", "label": 1}\n',
            "not valid JSON: a name occurs twice",
        ),
        ("jsonl", '{"text": "a", "label": NaN}\n', "line 1 is not valid JSON: NaN"),
        ("jsonl", "{" * 100_000 + "\n", "line 1 is not valid JSON"),
        ("jsonl", '{"a":' * 100_000 + "\n", "line 1 is not valid JSON: nested too deep"),
        ("jsonl", '{"text": "a"', "line 1 is not valid JSON"),
        ("jsonl", '{"text": "' + "a" * MAX_ROW_BYTES + '"}', "line 1: a row has at most"),
        ("csv", 'text,label\n"' + "a\n" * MAX_ROW_BYTES + '",1\n', "a row has at most"),
        ("csv", ",".join(map(str, range(2000))) + "\n", "2000 columns"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(path, form, data, says):
    with pytest.raises(InvalidDataset) as caught:
        read(path, data, form)
    assert says in caught.value.detail
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize("label", ["-1", "100000", "999999999999"])
def test_a_label_that_is_no_class_is_out_of_range(path, label):
    with pytest.raises(LabelsOutOfRange, match=f"line 2, column 'label': found the label {label}"):
        read(path, f"text,label\na,{label}\n")


@pytest.mark.parametrize("label", ["nan", "inf", "1e400", "1_000", "", "3.5e38"])
def test_a_label_that_is_no_finite_number_is_refused(path, label):
    with pytest.raises(InvalidDataset, match="line 2, column 'label': expected a finite number"):
        read(path, f"text,label\na,{label}\n", task="regression")
