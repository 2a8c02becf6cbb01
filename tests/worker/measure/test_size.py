"""Measuring files."""

import hashlib
import zlib

from hypothesis import given
from hypothesis import strategies as st

from worker.measure.size import digest_file, measure_file


@given(st.binary(max_size=3000), st.integers(0, 1500))
def test_a_files_numbers_are_those_of_its_bytes(tmp_path_factory, data, repeats):
    content = data * repeats  # beyond one chunk, sometimes
    path = tmp_path_factory.mktemp("size") / "file"
    path.write_bytes(content)
    size = measure_file(path)
    assert size.size_bytes == len(content)
    assert size.compressed_bytes == len(zlib.compress(content, 6))
    assert size.sha256 == digest_file(path) == hashlib.sha256(content).hexdigest()
