"""Reading a model given as one safetensors file with an architecture."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.core.errors import (
    ArchitectureMismatch,
    InvalidHeader,
    InvalidModel,
    NonfiniteWeights,
    UnknownArchitecture,
    UnsupportedFormat,
)
from worker.formats.registry import read_model
from worker.models.registry import build
from worker.protocol import ModelInput

ARCHITECTURE = {"library": "secateur", "name": "resnet8x8", "params": {"width": 4}}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build(ARCHITECTURE).module.state_dict()


def read(folder, state, **changes):
    save_file(state, folder / "model.safetensors")
    given = {
        "format": "safetensors",
        "architecture": ARCHITECTURE,
        "files": {"weights": folder / "model.safetensors"},
        "sha256": {},
    }
    return read_model(ModelInput(**{**given, **changes}))


def test_what_was_saved_is_what_is_loaded(tmp_path, state):
    loaded = read(tmp_path, state)
    assert loaded.tensor_names == tuple(sorted(state))
    for name, tensor in loaded.network.module.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_built_anew_it_has_other_weights_of_the_same_shapes(tmp_path, state):
    fresh = read(tmp_path, state).build().module.state_dict()
    assert {n: t.shape for n, t in fresh.items()} == {n: t.shape for n, t in state.items()}
    assert not torch.equal(fresh["conv1.weight"], state["conv1.weight"])


def test_a_file_without_batch_counters_is_complete(tmp_path, state):
    older = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    loaded = read(tmp_path, older)
    assert loaded.tensor_names == tuple(sorted(older))


def test_a_missing_tensor_is_named(tmp_path, state):
    del state["linear.bias"]
    with pytest.raises(ArchitectureMismatch, match=r"1 missing \(linear.bias\)"):
        read(tmp_path, state)


def test_an_unexpected_tensor_is_named(tmp_path, state):
    state["linear.scale"] = torch.ones(1)
    with pytest.raises(ArchitectureMismatch, match=r"1 unexpected \(linear.scale\)"):
        read(tmp_path, state)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path, state):
    state["linear.bias"] = torch.zeros(3)
    with pytest.raises(ArchitectureMismatch, match=r"linear.bias is \[3\], expected \[10\]"):
        read(tmp_path, state)


def test_a_tensor_of_another_type_is_named_with_both_types(tmp_path, state):
    state["conv1.weight"] = state["conv1.weight"].half()
    with pytest.raises(ArchitectureMismatch, match=r"conv1.weight is float16, expected float32"):
        read(tmp_path, state)


def test_a_long_list_of_faults_is_cut_with_its_count(tmp_path):
    with pytest.raises(ArchitectureMismatch, match=r"\d+ missing .* and \d+ more\)"):
        read(tmp_path, {"other": torch.zeros(1)})


def test_an_architecture_of_more_memory_than_there_is_is_compared_without_it(tmp_path):
    # Its weights are 41 GB.
    params = {"growth_rate": 256, "init_features": 512, "blocks": [64] * 6}
    with (
        at_most_more(2**30),
        pytest.raises(ArchitectureMismatch, match=r"\d+ missing .*; 1 unexpected \(a\)"),
    ):
        read(tmp_path, {"a": torch.zeros(1)}, architecture={"name": "densenet-121", "params": params})


def test_a_counter_that_the_file_leaves_out_begins_at_zero(tmp_path, state):
    older = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    loaded = read(tmp_path, older).network.module.state_dict()
    counters = [tensor for name, tensor in loaded.items() if name not in older]
    assert counters
    assert not any(counters)


@contextmanager
def at_most_more(size_bytes: int) -> Iterator[None]:
    """Let this process map so many bytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path, state, value):
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    with pytest.raises(NonfiniteWeights, match=r"layer2.0.conv1.weight holds 1 "):
        read(tmp_path, state)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(InvalidHeader):
        read(tmp_path, {"a": torch.zeros(1)}, files={"weights": tmp_path / "broken"})


def test_a_truncated_file_is_refused(tmp_path, state):
    save_file(state, tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-1])
    with pytest.raises(InvalidHeader):
        read(tmp_path, state, files={"weights": tmp_path / "cut"})


def test_an_unknown_architecture_is_refused(tmp_path, state):
    with pytest.raises(UnknownArchitecture):
        read(tmp_path, state, architecture={"name": "nothing"})


def test_a_model_without_weights_is_refused(tmp_path, state):
    with pytest.raises(InvalidModel, match="'weights'"):
        read(tmp_path, state, files={})


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path, state):
    with pytest.raises(UnsupportedFormat, match=r"'onnx'.*safetensors"):
        read(tmp_path, state, format="onnx")
