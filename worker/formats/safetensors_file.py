"""Read models given as one safetensors file with the name of a built-in architecture."""

from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from app.core.errors import ArchitectureMismatch, InvalidHeader, InvalidModel, NonfiniteWeights
from worker.formats.registry import LoadedModel, register
from worker.models.registry import build
from worker.protocol import ModelInput

ROLE = "weights"
# A counter that only BatchNorm without momentum reads; older tools leave it out of their state dicts.
_OPTIONAL_SUFFIX = ".num_batches_tracked"
_SHOWN = 5


@register("safetensors", summary="One safetensors file whose tensors fit a built-in architecture.")
def read_safetensors(model: ModelInput) -> LoadedModel:
    """Build the architecture and load the file into it.

    Raises UnknownArchitecture, InvalidHeader, ArchitectureMismatch or NonfiniteWeights.
    """
    if ROLE not in model.files:
        raise InvalidModel(f"a safetensors model has one file, {ROLE!r}; found: {', '.join(model.files)}")
    network = build(model.architecture)
    tensors = read_tensors(model.files[ROLE])
    load_tensors(network.module, tensors)
    return LoadedModel(network, tuple(sorted(tensors)), partial(build, model.architecture))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a safetensors file onto the CPU, by name, sorted; raises InvalidHeader."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except SafetensorError as error:
        raise InvalidHeader(f"the safetensors file cannot be read: {error}") from error


def load_tensors(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy tensors into the module after checking names, shapes, types and values."""
    _check_structure(module.state_dict(), tensors)
    _check_finite(tensors)
    module.load_state_dict(tensors, strict=False)


def _check_structure(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    missing = [n for n in expected if n not in found and not n.endswith(_OPTIONAL_SUFFIX)]
    unexpected = [n for n in found if n not in expected]
    both = [n for n in expected if n in found]
    reshaped = [
        f"{n} is {list(found[n].shape)}, expected {list(expected[n].shape)}"
        for n in both
        if found[n].shape != expected[n].shape
    ]
    retyped = [
        f"{n} is {_type_name(found[n])}, expected {_type_name(expected[n])}"
        for n in both
        if found[n].dtype != expected[n].dtype
    ]
    faults = [
        _list_fault("missing", missing),
        _list_fault("unexpected", unexpected),
        _list_fault("of another shape", reshaped),
        _list_fault("of another type", retyped),
    ]
    if any(faults):
        raise ArchitectureMismatch(
            "the tensors do not fit the architecture: " + "; ".join(filter(None, faults))
        )


def _list_fault(fault: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {fault} ({', '.join(items[:_SHOWN])}{more})"


def _type_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_finite(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        bad = int(tensor.numel() - torch.isfinite(tensor).sum())
        if bad:
            raise NonfiniteWeights(f"tensor {name} holds {bad} NaN or infinite values of {tensor.numel()}")
