"""Rules for operations that move elements about without computing: views, permutations, joins."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from worker.pruning.removal.labels import FIXED, Ids
from worker.pruning.removal.rules.registry import argument, rule
from worker.pruning.removal.tracer import Args, Kwargs, Tracer, find_padding_module

Shape = Sequence[int]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten")
def reshape(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    ids = tracer.ids(args[0])
    if ids is not None:
        tracer.set_ids(result, reshape_ids(ids, args[0].shape, result.shape))


@rule("t", "transpose", "permute", "movedim", "numpy_T")
def permute(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    if tracer.note_transposed(result, args[0]):
        return
    ids = tracer.ids(args[0])
    if ids is None:
        return
    dims = argument(args, 1)
    if dims is None:
        tracer.set_ids(result, ids.T)
    elif isinstance(dims, int):
        tracer.set_ids(result, np.swapaxes(ids, dims, args[2]))
    else:
        tracer.set_ids(result, np.transpose(ids, dims))


@rule("expand", "expand_as", "broadcast_to")
def expand(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    ids = tracer.ids(args[0])
    if ids is not None:
        tracer.set_ids(result, ids.reshape((1,) * (result.ndim - ids.ndim) + ids.shape))


@rule("unsqueeze")
def unsqueeze(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    ids = tracer.ids(args[0])
    if ids is not None:
        tracer.set_ids(result, np.expand_dims(ids, args[1] % result.ndim))


@rule("squeeze")
def squeeze(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    ids = tracer.ids(args[0])
    if ids is None:
        return
    dims = argument(args, 1, tuple(range(ids.ndim)))
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    gone = tuple(dim % ids.ndim for dim in dims if args[0].shape[dim] == 1)
    tracer.set_ids(result, np.squeeze(ids, gone))


@rule(
    "clone",
    "alias",
    "detach",
    "contiguous",
    "_to_copy",
    "lift_fresh",
    "dropout",
    "native_dropout",
    "to",
    "view_as",
)
def copy(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: a tensor or a tuple
    copied = result[0] if isinstance(result, tuple) else result
    tracer.set_ids(copied, tracer.ids(args[0]))


@rule("cat", "concat")
def join(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    parts = [tracer.ids(part) for part in args[0]]
    if all(ids is None for ids in parts):
        return
    axis = argument(args, 1, 0) % result.ndim
    whole = [_fill(ids, part, axis) for ids, part in zip(parts, args[0], strict=True) if part.numel()]
    shape = [max(ids.shape[dim] for ids in whole) for dim in range(result.ndim)]
    wide = [np.broadcast_to(ids, [*shape[:axis], ids.shape[axis], *shape[axis + 1 :]]) for ids in whole]
    tracer.set_ids(result, np.concatenate(wide, axis=axis))


@rule("stack")
def stack(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    for part in args[0]:
        tracer.keep(tracer.ids(part), f"is stacked in {tracer.place}")


@rule("constant_pad_nd")
def pad(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Label padded channels anew where their module counts them; elsewhere they are part of the code."""
    ids = tracer.ids(args[0])
    if ids is None:
        return
    widths = list(zip(args[1][0::2], args[1][1::2], strict=True))[::-1]
    first = result.ndim - len(widths)
    for axis, (before, after) in enumerate(widths, start=first):
        if ids.shape[axis] == 1 or (before, after) == (0, 0):
            continue
        if min(before, after) < 0:
            tracer.keep(ids, f"is cropped in {tracer.place}")
            return
        if find_padding_module(tracer) is None or argument(args, 2, 0) != 0:
            new = [np.full(width, FIXED) for width in (before, after)]
        else:
            new = [tracer.knob_ids("channels_before", before), tracer.knob_ids("channels_after", after)]
        rest = [size for dim, size in enumerate(ids.shape) if dim != axis]
        ahead, behind = (np.broadcast_to(one, [*rest, len(one)]) for one in new)
        moved = np.concatenate([ahead, np.moveaxis(ids, axis, -1), behind], axis=-1)
        ids = np.moveaxis(moved, -1, axis)
    tracer.set_ids(result, ids)


@rule("roll", "flip")
def shuffle(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    ids = tracer.ids(args[0])
    if ids is None:
        return
    dims = argument(args, 2) if len(args) > 2 else args[1]
    if any(ids.shape[dim] > 1 for dim in dims):
        tracer.keep(ids, f"is rolled or flipped in {tracer.place}")
    tracer.set_ids(result, ids)


def reshape_ids(ids: Ids, before: Shape, after: Shape) -> Ids:
    """Return labels for a tensor of another shape with the same elements in the same order."""
    pieces: list[int] = []
    shape: list[int] = []
    for olds, news in _find_blocks(before, after):
        part = [ids.shape[dim] for dim in olds]
        if all(size == 1 for size in part):
            pieces += part
            shape += [1] * len(news)
        else:
            pieces += [before[dim] for dim in olds]
            shape += [after[dim] for dim in news]
    return np.broadcast_to(ids, pieces).reshape(shape)


def _find_blocks(before: Shape, after: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Yield runs of axes that hold the same elements before and after, as short as can be."""
    old = new = 0
    while old < len(before) or new < len(after):
        olds, news = [], []
        if old < len(before):
            olds.append(old)
            old += 1
        if new < len(after):
            news.append(new)
            new += 1
        while (left := math.prod(before[dim] for dim in olds)) != (
            right := math.prod(after[dim] for dim in news)
        ):
            if (left < right and old < len(before)) or new >= len(after):
                olds.append(old)
                old += 1
            else:
                news.append(new)
                new += 1
        yield olds, news


def _fill(ids: Ids | None, part: Tensor, axis: int) -> Ids:
    """Return labels of full size along an axis, FIXED where there are none."""
    shape = [1] * part.ndim if ids is None else list(ids.shape)
    shape[axis] = part.shape[axis]
    return np.full(shape, FIXED) if ids is None else np.broadcast_to(ids, shape)
