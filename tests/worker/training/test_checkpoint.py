"""Checkpoints: what goes in comes out, and what is damaged counts for nothing."""

import pytest
import torch

from worker.training.checkpoint import Checkpoints

TREE = {
    "step": 3,
    "loss": 0.1 + 0.2,
    "nothing": None,
    "rows": [{"note": "a", "metrics": {}}, {}],
    "tensors": {
        "a.weight": torch.arange(6.0).reshape(2, 3),
        "count": torch.tensor(7),
        "empty": torch.zeros(0),
    },
    "list": [torch.tensor([True, False]), torch.ones(2, dtype=torch.bfloat16)],
}


def make(path, *, inputs=None, interval_s=0.0, clock=lambda: 0.0) -> Checkpoints:
    return Checkpoints(path, inputs or {"job": "a"}, interval_s=interval_s, clock=clock)


def files(path):
    return sorted(path.glob("*.safetensors"))


def assert_equal(one, two):
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, list):
        for pair in zip(one, two, strict=True):
            assert_equal(*pair)
    else:
        assert one == two


def test_what_was_written_is_what_is_read(tmp_path):
    make(tmp_path).write(TREE)
    assert_equal(make(tmp_path).read(), TREE)


def test_there_is_none_before_the_first(tmp_path):
    assert make(tmp_path / "nowhere").read() is None


def test_a_tensor_keeps_its_layout_in_memory_and_is_alone_there(tmp_path):
    strided = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    whole = torch.rand(4, 5)
    make(tmp_path).write(
        {"strided": strided, "slice": whole[1:3, ::2], "transposed": whole.t(), "tied": strided}
    )
    read = make(tmp_path).read()
    assert read["strided"].stride() == strided.stride()
    assert torch.equal(read["slice"], whole[1:3, ::2])
    assert torch.equal(read["transposed"], whole.t())
    assert torch.equal(read["tied"], strided)
    assert read["tied"].data_ptr() != read["strided"].data_ptr()


def test_two_are_kept_and_the_newest_is_read(tmp_path):
    checkpoints = make(tmp_path)
    for step in range(12):
        checkpoints.write({"step": step})
    assert len(files(tmp_path)) == 2
    assert make(tmp_path).read() == {"step": 11}


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b""])
def test_a_damaged_one_falls_back_on_the_one_before_it_and_then_on_the_start(tmp_path, damage):
    for step in range(2):
        make(tmp_path).write({"step": step, "w": torch.ones(3)})
    for expected in ({"step": 0, "w": torch.ones(3)}, None):
        newest = files(tmp_path)[-1]
        newest.write_bytes(damage(newest.read_bytes()))
        read = make(tmp_path).read()
        assert_equal(read, expected)
    assert files(tmp_path) == []


def test_one_of_another_job_is_ignored_and_does_not_outlive_ours(tmp_path):
    other = make(tmp_path, inputs={"job": "b"})
    for step in range(5):
        other.write({"step": step})
    ours = make(tmp_path)
    assert ours.read() is None
    ours.write({"step": 0})
    assert make(tmp_path).read() == {"step": 0}


def test_a_torn_write_leaves_the_one_before(tmp_path):
    make(tmp_path).write({"step": 0})
    (tmp_path / ".partial").write_bytes(b"half of a file")
    assert make(tmp_path).read() == {"step": 0}
    make(tmp_path).write({"step": 1})
    assert make(tmp_path).read() == {"step": 1}


def test_one_is_due_when_the_interval_has_passed(tmp_path):
    now = [0.0]
    checkpoints = make(tmp_path, interval_s=60.0, clock=lambda: now[0])
    now[0] = 59.9
    assert not checkpoints.is_due()
    now[0] = 60.0
    assert checkpoints.is_due()
    checkpoints.write({})
    assert not checkpoints.is_due()
    assert make(tmp_path, interval_s=0.0).is_due()


def test_what_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        make(tmp_path).write({"loss": float("nan")})
