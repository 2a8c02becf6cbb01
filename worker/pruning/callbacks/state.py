"""A pruner's state on disk: nested tensors and JSON values in one safetensors file, no pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worker.pruning.errors import PruningError

_METADATA_KEY = "state"
_TENSOR = "$tensor"
_ITEMS = "$items"


class InvalidState(PruningError):
    """A file or a value is no state of a pruner."""


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:  # Any: tensors and JSON values, nested
    """Write a state in place of what the path holds, whole or not at all; equal states give equal bytes.

    A state is a mapping of strings to tensors (any shape, dtype and device), JSON values, and lists and
    mappings of them; a tuple is written as a list. The keys of a mapping are strings, or all integers, as an
    optimizer's state has them. Raises InvalidState for anything else.
    """
    tensors: dict[str, Tensor] = {}
    plain = _take_tensors(state, "", tensors)
    try:
        text = json.dumps(plain, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidState(f"a state holds tensors and JSON values: {error}") from error
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    # One metadata key, since safetensors keeps several in no fixed order.
    save_file(_take_apart(tensors), partial, metadata={_METADATA_KEY: text})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_state(path: str | Path) -> dict[str, Any]:  # Any: what save_state was given
    """Read a state that `save_state` wrote, its tensors on the CPU; raise InvalidState for another file."""
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        state = _put_tensors(plain, tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise InvalidState(f"{path} holds no state of a pruner: {error}") from error
    if not isinstance(state, dict):
        raise InvalidState(f"{path} holds no state of a pruner: a mapping is expected")
    return state


def _take_tensors(value: object, pointer: str, tensors: dict[str, Tensor]) -> object:
    """Move the tensors of a nested value into `tensors`, named by JSON pointer; return what is left."""
    if isinstance(value, Tensor):
        tensors[pointer] = value.detach().to("cpu").contiguous()
        return {_TENSOR: pointer}
    if isinstance(value, Mapping):
        if value and all(type(key) is int for key in value):
            # JSON would make strings of them.
            return {
                _ITEMS: [
                    [key, _take_tensors(item, _below(pointer, str(key)), tensors)]
                    for key, item in value.items()
                ]
            }
        for key in value:
            if not isinstance(key, str) or key in (_TENSOR, _ITEMS):
                raise InvalidState(
                    f"a key is an integer, or a string but {_TENSOR} and {_ITEMS}, found {key!r}"
                )
        return {key: _take_tensors(item, _below(pointer, key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_tensors(item, _below(pointer, str(i)), tensors) for i, item in enumerate(value)]
    return value


def _take_apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with copies of those in the memory of another, which safetensors refuses."""
    apart: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in taken else tensor
        taken.add(memory)
    return apart


def _below(pointer: str, key: str) -> str:
    """Return the JSON pointer (RFC 6901) of a key below a pointer: no two places have the same."""
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"


def _put_tensors(value: object, tensors: Mapping[str, Tensor]) -> object:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if _ITEMS in value:
            return {key: _put_tensors(item, tensors) for key, item in value[_ITEMS]}
        return {key: _put_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    return value
