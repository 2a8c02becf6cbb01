"""Files that are there whole or not at all."""

import pytest

from worker.atomic import place_atomically, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_atomically(tmp_path / "file", b"old")

    def fail(partial):
        partial.write_bytes(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        place_atomically(tmp_path / "file", fail)
    assert (tmp_path / "file").read_bytes() == b"old"
