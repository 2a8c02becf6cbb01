"""How a model is run to try a cut: with two samples, with one, and with samples of another size."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from worker.pruning.removal.check import Run
from worker.pruning.statistics.calibration import Inputs

_TEXT_DIMS, _SEQUENCE_DIMS = 2, 3


@dataclass(frozen=True)
class Trials:
    """`run` gives a model two samples; `others` give it samples of other shapes, which it may not take."""

    run: Run
    others: tuple[Run, ...]


def make_trials(inputs: Inputs) -> Trials:
    """Return the trials over a batch: two of its samples, one, and two of half the size in space or time."""
    two = _change(inputs, lambda tensor: tensor[:2])
    return Trials(_make_run(two), tuple(map(_make_run, _vary(two))))


def make_call(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return arguments for a call with two samples, which is enough to trace and to compare."""
    return _unpack(_change(inputs, lambda tensor: tensor[:2]))


def _make_run(inputs: Inputs) -> Run:
    args, kwargs = _unpack(inputs)

    def run(model: nn.Module) -> object:
        return model(*args, **kwargs)

    return run


def _vary(inputs: Inputs) -> Iterator[Inputs]:
    yield _change(inputs, lambda tensor: tensor[:1])
    args, kwargs = _unpack(inputs)
    for axes in _list_axes((*args, *kwargs.values())):
        yield _change(inputs, partial(_halve, axes=axes))


def _list_axes(tensors: tuple[Tensor, ...]) -> tuple[tuple[int, ...], ...]:
    """Return which axes are space or time: of [n, c, h, w] the last ones, of three axes one or the other."""
    dims = max((tensor.ndim for tensor in tensors), default=0)
    if dims > _SEQUENCE_DIMS:
        return (tuple(range(2, dims)),)
    if dims == _SEQUENCE_DIMS:
        return ((1,), (2,))
    is_text = dims == _TEXT_DIMS and not any(tensor.is_floating_point() for tensor in tensors)
    return ((1,),) if is_text else ()


def _halve(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        if axis < tensor.ndim:
            tensor = tensor.narrow(axis, 0, (tensor.shape[axis] + 1) // 2)
    return tensor


def _change(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return tuple(change(tensor) for tensor in inputs)


def _unpack(inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
