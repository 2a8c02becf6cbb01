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
from worker.formats.weights import TensorForm, check_finite, check_structure, form_of, read_forms
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
    path, cut = model.files[WEIGHTS_ROLE], model.architecture.get(CUT)
    forms = read_forms(path)
    shapes = {name: form.shape for name, form in forms.items()}
    # Before there is memory for any weight: an architecture may ask for more than any machine has.
    with torch.device("meta"):
        network = build(model.architecture)
    fit_depth(network.module, cut)
    fit_module(network.module, cut, shapes)
    _check_forms(network.module, forms)
    network.module.to_empty(device="cpu")
    _load(network.module, read_tensors(path))
    check_runs(network, cut)
    return LoadedModel(network, tuple(forms), partial(_build_fresh, model.architecture, shapes))


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


def _check_forms(meta: nn.Module, found: Mapping[str, TensorForm]) -> None:
    expected = {name: form_of(tensor) for name, tensor in meta.state_dict().items()}
    missing = [n for n in expected if n not in found and not n.endswith(_OPTIONAL_SUFFIX)]
    check_structure(expected, found, missing=missing)


def _load(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        check_finite(name, tensor)
    for name, target in module.state_dict().items():
        if name not in tensors:
            target.zero_()
    module.load_state_dict(tensors, strict=False)
