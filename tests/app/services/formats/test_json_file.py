"""JSON files of a model folder: read within bounds, whatever characters a vocabulary has."""

import tracemalloc

import pytest

from app.core.errors import InvalidModel
from app.services.formats.json_file import read_object


def test_a_vocabulary_of_odd_characters_costs_no_more_than_itself(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b'{"a": [' + b'"\\u0000", ' * 100_000 + b"0]}")
    tracemalloc.start()
    try:
        read_object(path, path.name, max_bytes=2_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 15_000_000


def test_a_fault_behind_many_odd_characters_is_found(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b'{"a": [' + b'"\\u0000", ' * 200 + b"NaN]}")
    with pytest.raises(InvalidModel, match=r"tokenizer\.json, at /a/200: expected a finite number"):
        read_object(path, path.name, max_bytes=10_000)
