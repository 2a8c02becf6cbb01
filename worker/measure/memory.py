"""Measure the memory of weights and of inference, in bytes of tensors, the same on every run."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worker.models.inputs import Inputs, compute_logits, leaves


def sum_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Add up the bytes of tensors, zeros included."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure_peak_bytes(module: nn.Module, inputs: Inputs) -> int:
    """Return the most bytes of tensors alive at once in one forward pass, weights and input included.

    What a kernel allocates for itself and frees before it returns is not seen.
    """
    module.eval()
    live = _LiveStorages()
    with torch.no_grad(), live:
        for tensor in (*module.parameters(), *module.buffers(), *leaves(inputs)):
            live.follow(tensor)
        compute_logits(module, inputs)
    return live.peak_bytes


class _LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Follow every storage that an operation returns until it dies."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.peak_bytes = 0
        self._live_bytes = 0
        self._followed: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping it would import it first, which takes a second and a half.
        return False

    def follow(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage once, however many tensors share it."""
        storage = tensor.untyped_storage()
        key, size_bytes = id(storage), storage.nbytes()
        if key in self._followed:
            return
        self._followed[key] = weakref.ref(storage, lambda _: self._forget(key, size_bytes))
        self._live_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)

    def _forget(self, key: int, size_bytes: int) -> None:
        del self._followed[key]
        self._live_bytes -= size_bytes

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],  # Any: torch hands over any operator with any arguments
        types: Iterable[type],
        args: tuple[Any, ...] = (),  # Any: as above
        kwargs: Mapping[str, Any] | None = None,  # Any: as above
    ) -> Any:  # Any: as above
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.follow(leaf)
        return result
