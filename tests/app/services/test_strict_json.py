"""Strict JSON: what the standard parser reads but no two programs read alike is a fault."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services import strict_json

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_what_can_be_written_is_read_back_without_a_fault(value):
    parsed = strict_json.parse(json.dumps(value).encode())
    assert parsed.value == value
    assert parsed.faults == ()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_but_never_crash(data):
    with suppress(strict_json.NotJson):
        strict_json.parse(data)


@pytest.mark.parametrize(
    ("text", "pointer", "code"),
    [
        ('{"a": {"b": 1, "b": 2}}', "/a/b", "duplicate_name"),
        ('{"a": [1, NaN]}', "/a/1", "finite_number"),
        ('{"a": -Infinity}', "/a", "finite_number"),
        ('{"a": 1e999}', "/a", "finite_number"),
        ('{"a": "x\\u0000"}', "/a", "bad_text"),
        ('{"a": "\\ud800"}', "/a", "bad_text"),
        ('{"a": {"\\udfff": 1}}', "/a", "bad_text"),
        ('{"a/b~c": NaN}', "/a~1b~0c", "finite_number"),
    ],
)
def test_each_fault_has_a_pointer_and_a_code(text, pointer, code):
    [fault] = strict_json.parse(text.encode()).faults
    assert (fault.pointer, fault.code) == (pointer, code)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"nul", b'{"a": 1,}', b"\xff\xfe{}", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5_000],
    ids=["empty", "open", "word", "comma", "utf-16", "deep-array", "deep-object", "huge-integer"],
)
def test_what_is_not_json_is_said_to_be_none(data):
    with pytest.raises(strict_json.NotJson):
        strict_json.parse(data)


def test_nesting_is_allowed_to_the_limit_and_not_beyond():
    assert strict_json.parse(b"[" * 4 + b"]" * 4, max_depth=4).faults == ()
    [fault] = strict_json.parse(b"[" * 5 + b"]" * 5, max_depth=4).faults
    assert fault.code == "too_deep"


def test_of_many_faults_the_first_hundred_are_listed():
    faults = strict_json.parse(b"[" + b"NaN," * 1000 + b"0]").faults
    assert [fault.pointer for fault in faults] == [f"/{i}" for i in range(100)]


def test_text_that_is_no_fault_hides_none_behind_it():
    data = b"[" + b'"\\u0000",' * 200 + b"NaN]"
    [fault] = strict_json.parse(data, takes_any_text=True).faults
    assert (fault.pointer, fault.code) == ("/200", "finite_number")


def test_a_long_pointer_is_cut():
    [fault] = strict_json.parse(b'{"' + b"x" * 5000 + b'": NaN}').faults
    assert fault.pointer == "/" + "x" * 999 + "…"
