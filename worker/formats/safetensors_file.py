"""Read models given as one safetensors file with the name of a built-in architecture."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from torch import nn

from app.core.errors import InvalidHeader, InvalidModel
from app.core.huggingface import WEIGHTS_ROLE
from worker.formats.cut import CUT, check_runs, fit_depth, fit_module, is_cut, load_parts
from worker.formats.registry import LoadedModel, register
from worker.formats.weights import check_finite, check_structure, form_of
from worker.models.registry import Network, build
from worker.protocol import ModelInput

# A counter that only BatchNorm without momentum reads; older tools leave it out of their state dicts.
_OPTIONAL_SUFFIX = ".num_batches_tracked"


@register("safetensors", summary="One safetensors file whose tensors fit a built-in architecture.")
def read_safetensors(model: ModelInput) -> LoadedModel:
    """Build the architecture and load the file into it.

    Raises UnknownArchitecture, InvalidHeader, ArchitectureMismatch or NonfiniteWeights.
    """
    if WEIGHTS_ROLE not in model.files:
        raise InvalidModel(
            f"a safetensors model has one file, {WEIGHTS_ROLE!r}; found: {', '.join(model.files)}"
        )
    network = build(model.architecture)
    tensors = read_tensors(model.files[WEIGHTS_ROLE])
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fit_depth(network.module, model.architecture.get(CUT))
    fit_module(network.module, model.architecture.get(CUT), shapes)
    load_tensors(network.module, tensors)
    check_runs(network, model.architecture.get(CUT))
    return LoadedModel(network, tuple(sorted(tensors)), partial(_build_fresh, model.architecture, shapes))


def _build_fresh(architecture: Mapping[str, JsonValue], shapes: Mapping[str, tuple[int, ...]]) -> Network:
    network = build(architecture)
    if is_cut(architecture):
        fit_depth(network.module, architecture[CUT])
        whole = network.module.state_dict()
        fit_module(network.module, architecture[CUT], shapes)
        load_parts(network.module, whole)
    return network


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a safetensors file onto the CPU, by name, sorted; raises InvalidHeader."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except SafetensorError as error:
        raise InvalidHeader(f"the safetensors file cannot be read: {error}") from error


def load_tensors(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy tensors into the module after checking names, shapes, types and values."""
    expected = {name: form_of(tensor) for name, tensor in module.state_dict().items()}
    missing = [n for n in expected if n not in tensors and not n.endswith(_OPTIONAL_SUFFIX)]
    check_structure(expected, {name: form_of(tensor) for name, tensor in tensors.items()}, missing=missing)
    for name, tensor in tensors.items():
        check_finite(name, tensor)
    module.load_state_dict(tensors, strict=False)
