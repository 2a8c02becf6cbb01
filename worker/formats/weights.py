"""Compare the tensors of an upload with those that a module expects, and check their values."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from app.core.errors import ArchitectureMismatch, InvalidHeader, NonfiniteWeights

FLOATS = ("float64", "float32", "float16", "bfloat16")
# As a file's header says it → as torch does.
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}
_SHOWN = 5


class TensorForm(NamedTuple):
    """The shape of a tensor, and its type as torch names it."""

    shape: tuple[int, ...]
    dtype: str


def form_of(tensor: torch.Tensor) -> TensorForm:
    """Return the form of a tensor."""
    return TensorForm(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def read_forms(path: Path) -> dict[str, TensorForm]:
    """Return the form of every tensor of a safetensors file, by name, without reading values.

    Raises InvalidHeader.
    """
    forms = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                part = file.get_slice(name)
                dtype = part.get_dtype()
                forms[name] = TensorForm(tuple(part.get_shape()), _TYPES.get(dtype, dtype))
    except SafetensorError as error:
        raise InvalidHeader(f"{path.name} cannot be read: {error}") from error
    return forms


def check_structure(
    expected: Mapping[str, TensorForm],
    found: Mapping[str, TensorForm],
    *,
    missing: Iterable[str],
    hint: str = "",
) -> None:
    """Refuse tensors that do not fit; `missing` are the names that are lacking and may not.

    Raises ArchitectureMismatch, which names some tensors of each kind of fault and ends with `hint`.
    """
    unexpected = [n for n in found if n not in expected]
    both = [n for n in expected if n in found]
    reshaped = [
        f"{n} is {list(found[n].shape)}, expected {list(expected[n].shape)}"
        for n in both
        if found[n].shape != expected[n].shape
    ]
    retyped = [
        f"{n} is {found[n].dtype}, expected {expected[n].dtype}"
        for n in both
        if found[n].dtype != expected[n].dtype
    ]
    faults = [
        _list_fault("missing", list(missing)),
        _list_fault("unexpected", unexpected),
        _list_fault("of another shape", reshaped),
        _list_fault("of another type", retyped),
    ]
    if any(faults):
        raise ArchitectureMismatch(
            "the tensors do not fit the architecture: " + "; ".join(filter(None, faults)) + hint
        )


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Refuse a floating-point tensor that holds NaN or infinity; raises NonfiniteWeights."""
    if not tensor.is_floating_point():
        return
    bad = int(tensor.numel() - torch.isfinite(tensor).sum())
    if bad:
        raise NonfiniteWeights(f"tensor {name} holds {bad} NaN or infinite values of {tensor.numel()}")


def _list_fault(fault: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {fault} ({', '.join(items[:_SHOWN])}{more})"
