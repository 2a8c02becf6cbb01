"""Checkpoints of a training: nested dicts and lists of tensors and JSON values, one safetensors file each.

A file's name holds its place in the order and its SHA-256, so that a torn or damaged one is known by itself;
then the one before it counts. A checkpoint is written every so many seconds: since every draw of a step
is a function of the step (see randomness), when it is written changes nothing in what comes out.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from worker.atomic import flush
from worker.measure.size import digest_file

# Any: dicts with string keys and lists, of tensors and JSON values, nested as deep as need be.
Tree = dict[str, Any]

_METADATA_KEY = "tree"
_TENSOR_KEY = "//tensor"
_PARTIAL_NAME = ".partial"
_KEPT = 2


class Checkpoints:
    """The folder of one training's checkpoints, made from `inputs`; those made from others are ignored."""

    def __init__(
        self,
        path: Path,
        inputs: Mapping[str, str],
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._inputs = dict(inputs)
        self._interval_s = interval_s
        self._clock = clock
        self._written_s = clock()

    def is_due(self) -> bool:
        """Tell whether the last one is so old that a kill would now cost more than was agreed."""
        return self._clock() - self._written_s >= self._interval_s

    def write(self, tree: Tree) -> None:
        """Write a checkpoint, flushed to the disk; the two newest stay."""
        self._path.mkdir(parents=True, exist_ok=True)
        partial = self._path / _PARTIAL_NAME
        _save(partial, {"inputs": self._inputs, "tree": tree})
        flush(partial)
        newest = self._files()[:1]
        number = int(newest[0].name.partition("-")[0]) + 1 if newest else 0
        # Numbers of one width sort as text does.
        partial.replace(self._path / f"{number:012d}-{digest_file(partial)}.safetensors")
        flush(self._path)
        for old in self._files()[_KEPT:]:
            old.unlink()
        self._written_s = self._clock()

    def read(self) -> Tree | None:
        """Return the newest checkpoint of these inputs that is whole; None when there is none."""
        for path in self._files():
            is_whole = digest_file(path) == path.stem.partition("-")[2]
            content = _load(path) if is_whole else None
            if content is not None and content["inputs"] == self._inputs:
                tree: Tree = content["tree"]
                return tree
            # It must not count as one of the newest when the next are written.
            path.unlink()
        return None

    def clear(self) -> None:
        """Throw all of them away."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _files(self) -> list[Path]:
        """List the checkpoints, newest first."""
        return sorted(self._path.glob("[0-9]*-*.safetensors"), reverse=True)


def _save(path: Path, tree: Tree) -> None:
    tensors: dict[str, torch.Tensor] = {}
    named: dict[tuple[object, ...], str] = {}
    text = json.dumps(_take_tensors_out(tree, "", tensors, named), sort_keys=True, allow_nan=False)
    # One metadata key, since safetensors keeps several in no fixed order.
    save_file(tensors, path, metadata={_METADATA_KEY: text})


def _load(path: Path) -> Tree | None:
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})[_METADATA_KEY])
            put_back: Tree = _put_tensors_back(tree, file.get_tensor)
            return put_back
    except (SafetensorError, KeyError, ValueError):
        return None


def _take_tensors_out(
    value: object, at: str, tensors: dict[str, torch.Tensor], named: dict[tuple[object, ...], str]
) -> object:
    """Return the tree as JSON, a reference in place of each tensor; the tensors are added by their path."""
    match value:
        case torch.Tensor():
            strides = torch.empty_like(value, device="meta").stride()
            return {_TENSOR_KEY: _name(value, at, tensors, named), "strides": list(strides)}
        case Mapping():
            return {
                key: _take_tensors_out(item, f"{at}/{key}", tensors, named) for key, item in value.items()
            }
        case list() | tuple():
            return [_take_tensors_out(item, f"{at}/{i}", tensors, named) for i, item in enumerate(value)]
        case _:
            return value


def _name(
    tensor: torch.Tensor, at: str, tensors: dict[str, torch.Tensor], named: dict[tuple[object, ...], str]
) -> str:
    # Tied weights are one tensor under two names; safetensors stores each byte once.
    key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
    if not tensor.numel() or key not in named:
        named[key] = at
        # A copy where memory is shared otherwise, as a slice shares it with its whole.
        plain = tensor.detach().cpu().contiguous()
        is_shared = plain.untyped_storage().nbytes() != plain.numel() * plain.element_size()
        tensors[at] = plain.clone() if is_shared else plain
    return named[key]


def _put_tensors_back(value: Any, read: Callable[[str], torch.Tensor]) -> Any:  # Any: see Tree
    if isinstance(value, list):
        return [_put_tensors_back(item, read) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR_KEY not in value:
        return {key: _put_tensors_back(item, read) for key, item in value.items()}
    stored = read(value[_TENSOR_KEY])
    # Into memory of our own, aligned as torch aligns it and laid out as it was: the vector instructions
    # that a kernel picks depend on both, and with them the last bit of a sum.
    tensor = torch.empty_strided(stored.shape, value["strides"], dtype=stored.dtype)
    return tensor.copy_(stored)
