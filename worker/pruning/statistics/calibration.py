"""Calibration data: batches that are run through a model without leaving a trace in it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter, methodcaller
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.func import functional_call
from torch.nn import functional

from worker.pruning.buffers import buffers_kept
from worker.pruning.errors import MissingData, PruningError
from worker.pruning.modes import in_mode

# A model takes one tensor, several, or several by name (as those of transformers do).
Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Targets = Any  # Any: whatever the loss takes; only tensors and mappings of them are moved and sliced
Loss = Callable[[Any, Any], Tensor]  # Any: what the model returns, what the data holds


# Where torch.compile keeps the module that it was given.
_ORIGINAL = "_orig_mod"


class InvalidBatch(PruningError):
    """A batch, or what the model makes of it, is not of the form that is expected."""


def default_loss(outputs: object, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of `outputs` (or their `.logits`), classes in the last dimension."""
    logits = logits_of(outputs)
    return functional.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def logits_of(outputs: object) -> Tensor:
    """Return what a model returned, or its `.logits` where it returned an object (as transformers do)."""
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor):
        raise InvalidBatch(
            f"expected a tensor or an object with .logits from the model, found {type(outputs).__name__}"
        )
    return logits


@dataclass(frozen=True)
class Calibration:
    """What statistics are gathered over.

    `data` yields batches (inputs, targets); the first `batches` of them are read (all when None) and held
    in memory, since some statistics pass over them twice. Each gathering starts `data` anew, so give a list
    or a DataLoader, not a generator, where it happens more than once. `loss(outputs, targets)` must be a
    mean over the samples of the batch; the default is cross-entropy. `seed` feeds what is random.
    """

    data: Iterable[tuple[Inputs, Targets]] | None = None
    loss: Loss | None = None
    batches: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    inputs: Inputs
    targets: Targets
    size: int

    def sample(self, index: int) -> "Batch":
        """Return one sample as a batch of one."""
        return self._changed(itemgetter(slice(index, index + 1)), 1)

    def chunks(self, size: int) -> Iterator["Batch"]:
        """Split into batches of at most `size` samples."""
        for start in range(0, self.size, size):
            stop = min(start + size, self.size)
            yield self._changed(itemgetter(slice(start, stop)), stop - start)

    def apart(self) -> "Batch":
        """Give each sample a batch of its own: tensors of [samples, 1, ...]."""
        return self._changed(methodcaller("unsqueeze", 1), self.size)

    @property
    def token_mask(self) -> Tensor | None:
        """Tell real tokens from padding, [batch, tokens] bool, where the inputs say so."""
        if isinstance(self.inputs, Mapping):
            mask = self.inputs.get("attention_mask")
            if mask is not None and mask.dim() == 3:  # several choices a sample, which models lay in a row
                mask = mask.flatten(0, 1)
            return mask.bool() if mask is not None and mask.dim() == 2 else None
        return None

    def _changed(self, change: Callable[[Tensor], Tensor], size: int) -> "Batch":
        return Batch(
            cast(Inputs, _each_tensor(self.inputs, change)), _each_tensor(self.targets, change), size
        )


def read_batches(calibration: Calibration, *, device: torch.device, reason: str) -> list[Batch]:
    """Read the calibration batches onto a device; raise MissingData, with the reason, when there is none."""
    if calibration.data is None:
        raise MissingData(f"{reason} needs data: give batches of (inputs, targets)")
    batches = [_batch(item, device) for item in islice(calibration.data, calibration.batches)]
    if not batches:
        raise MissingData(f"{reason} needs data: the data given holds no batch")
    return batches


def run(model: nn.Module, batch: Batch, weights: Mapping[str, Tensor] | None = None) -> object:
    """Run one batch, with other tensors in place of the named parameters and buffers where given.

    Of a compiled model the original runs: what has been compiled calls no hook that is put on afterwards.
    """
    original = getattr(model, _ORIGINAL, None)
    if isinstance(original, nn.Module):
        plain = {name.removeprefix(f"{_ORIGINAL}."): tensor for name, tensor in (weights or {}).items()}
        return run(original, batch, plain or None)
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = {}
    if isinstance(batch.inputs, Mapping):
        kwargs = dict(batch.inputs)
    else:
        args = (batch.inputs,) if isinstance(batch.inputs, Tensor) else tuple(batch.inputs)
    if weights is None:
        return model(*args, **kwargs)
    return functional_call(model, dict(weights), args, kwargs)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate inside; afterwards every module's mode and every buffer is what it was before.

    Evaluation mode makes samples independent of each other: BatchNorm uses its running statistics, dropout
    is off.
    """
    # The caller may stand inside no_grad or inference_mode; what needs gradients asks for them itself.
    with (
        buffers_kept(model),
        in_mode(model),
        _as_written(),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        yield


@contextmanager
def _as_written() -> Iterator[None]:
    """Run modules as they are written: what is fused or compiled calls no hook of those inside."""
    had_fast_path = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    # Importing the compiler takes seconds; where nobody has, nothing is compiled.
    has_compiler = "torch._dynamo" in sys.modules
    try:
        with torch.compiler.set_stance("force_eager") if has_compiler else nullcontext():
            yield
    finally:
        mha.set_fastpath_enabled(had_fast_path)


def _batch(item: object, device: torch.device) -> Batch:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InvalidBatch(f"a batch is a pair (inputs, targets), found {type(item).__name__}")
    inputs = cast(Inputs, _each_tensor(item[0], lambda tensor: tensor.to(device)))
    return Batch(inputs, _each_tensor(item[1], lambda tensor: tensor.to(device)), _size(inputs))


def _size(inputs: object) -> int:
    if isinstance(inputs, Tensor) and inputs.dim() > 0:
        return inputs.shape[0]
    items = inputs.values() if isinstance(inputs, Mapping) else inputs
    for tensor in items if isinstance(items, Iterable) else ():
        if isinstance(tensor, Tensor) and tensor.dim() > 0:
            return tensor.shape[0]
    raise InvalidBatch(
        "the inputs of a batch are a tensor, or several in a list or by name, with the samples in their "
        f"first dimension; found {type(inputs).__name__}"
    )


def _each_tensor(value: object, change: Callable[[Tensor], Tensor]) -> object:
    if isinstance(value, Tensor):
        return change(value) if value.dim() else value
    if isinstance(value, Mapping):
        return {key: _each_tensor(item, change) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_each_tensor(item, change) for item in value]
    return value
