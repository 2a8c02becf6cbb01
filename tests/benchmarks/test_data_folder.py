"""The folder of benchmark data: named by a variable, or a clear message."""

import pytest

from benchmarks.data_folder import VARIABLE, NoBenchmarkData, find_data_folder, find_file


def test_without_the_variable_the_message_names_it(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(NoBenchmarkData, match=f"set {VARIABLE}"):
        find_data_folder()


def test_a_folder_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(NoBenchmarkData, match=r"nowhere, which is not a folder"):
        find_data_folder()


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "there.npz").touch()
    assert find_file(find_data_folder(), "there.npz") == tmp_path / "there.npz"
    with pytest.raises(NoBenchmarkData, match=r"absent\.npz is missing"):
        find_file(tmp_path, "absent.npz")
