"""Rules for operations that pick places along an axis: slices, splits, indices.

A place may be a constant of the code or follow from the size of the axis; one pass does not tell which. It is
taken for a constant: what lies before it, or behind one that is counted from the end, has to stay, lest
another channel come to lie there. Equal parts are taken for parts of whatever is there, and lose the same
places. Trying finds where that was wrong.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from worker.pruning.removal.labels import Ids
from worker.pruning.removal.rules.operands import reduce_over, unite_parts
from worker.pruning.removal.rules.registry import argument, rule
from worker.pruning.removal.tracer import Args, Kwargs, Tracer

_WHOLE = slice(None)


@rule("slice")
def cut(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    source, axis, step = args[0], argument(args, 1, 0), argument(args, 4, 1)
    start, stop = argument(args, 2) or 0, argument(args, 3)
    size, length = source.shape[axis], result.shape[axis]
    first = min(max(start + size if start < 0 else start, 0), size)
    ids = tracer.ids(source)
    if ids is None or ids.shape[axis] == 1:
        tracer.set_ids(result, ids)
        return
    if step != 1:
        ids = _hold(tracer, ids, axis, [_WHOLE])
    elif 1 < length < size and size % length == 0 == first % length:
        ids = unite_parts(tracer, ids, axis, size // length)
    elif length < size:
        bounds = [start] if stop is None or stop >= size else [start, stop]
        ids = _hold(tracer, ids, axis, [_beyond(bound) for bound in bounds])
    tracer.set_ids(result, _take(ids, axis, slice(first, first + step * length, step)))


@rule("narrow")
def narrow(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    source, axis, start, length = args
    cut(tracer, result, (source, axis, start, start + length), kwargs)


@rule("select")
def select(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    source, axis, at = args
    ids = tracer.ids(source)
    if ids is None:
        return
    if ids.shape[axis] > 1:
        ids = _hold(tracer, ids, axis, [_beyond(at + 1 if at >= 0 else at)])
    at = 0 if ids.shape[axis] == 1 else at
    tracer.set_ids(result, np.asarray(np.take(ids, at, axis=axis)))


@rule("unbind")
def unbind(tracer: Tracer, result: Sequence[Tensor], args: Args, kwargs: Kwargs) -> None:
    axis = argument(args, 1, 0)
    for index, part in enumerate(result):
        select(tracer, part, (args[0], axis, index), kwargs)


@rule("split", "split_with_sizes", "chunk", "tensor_split")
def split(tracer: Tracer, result: Sequence[Tensor], args: Args, kwargs: Kwargs) -> None:
    ids, axis, start = tracer.ids(args[0]), argument(args, 2, 0), 0
    if ids is None:
        return
    sizes = [part.shape[axis] for part in result]
    if ids.shape[axis] > 1 and len(sizes) > 1:
        if len(set(sizes)) == 1 < sizes[0]:
            ids = unite_parts(tracer, ids, axis, len(sizes))
        else:
            ids = _hold(tracer, ids, axis, [_WHOLE])
    for part, size in zip(result, sizes, strict=True):
        tracer.set_ids(part, _take(ids, axis, slice(start, start + size)))
        start += size


@rule("glu")
def gate(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Tie the halves of an axis: the second is the gate of the first."""
    ids, axis = tracer.ids(args[0]), argument(args, 1, -1)
    if ids is None:
        return
    if ids.shape[axis] > 1:
        ids = unite_parts(tracer, ids, axis, 2)
    tracer.set_ids(result, _take(ids, axis, slice(0, result.shape[axis])))


@rule("index_select")
def index_select(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Follow what repeats or rearranges a whole axis, and may be computed from its size."""
    source, axis, index = args[0], args[1], args[2].cpu().numpy()
    tracer.keep(tracer.ids(args[2]), f"chooses what is picked in {tracer.place}")
    ids = tracer.ids(source)
    if ids is None:
        return
    if ids.shape[axis] > 1 and len(set(np.bincount(index, minlength=source.shape[axis]))) > 1:
        ids = _hold(tracer, ids, axis, [_WHOLE])
    tracer.set_ids(result, ids if ids.shape[axis] == 1 else np.take(ids, index, axis=axis))


@rule("index")
def index(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Follow labels where all axes that are indexed have none; others have to stay."""
    for one in args[1]:
        if one is not None:
            tracer.keep(tracer.ids(one), f"chooses what is picked in {tracer.place}")
    ids = tracer.ids(args[0])
    if ids is None:
        return
    indexed = [axis for axis, one in enumerate(args[1]) if one is not None]
    if any(ids.shape[axis] > 1 for axis in indexed) or any(
        one.dtype.itemsize == 1 for one in args[1] if one is not None
    ):
        tracer.keep(ids, f"is picked by an index in {tracer.place}")
        return
    left = np.squeeze(ids, tuple(indexed))
    made = result.ndim - left.ndim
    is_together = indexed == list(range(indexed[0], indexed[-1] + 1))
    at = indexed[0] if is_together else 0
    tracer.set_ids(result, left.reshape(left.shape[:at] + (1,) * made + left.shape[at:]))


def _beyond(bound: int) -> slice:
    """Return what must not change its size so that a bound stays where it is."""
    return slice(0, bound) if bound >= 0 else slice(bound, None)


def _hold(tracer: Tracer, ids: Ids, axis: int, windows: Sequence[slice]) -> Ids:
    """Keep what lies in windows of an axis, or unite it where labels vary along others too, as heads do."""
    why = "is picked by its place"
    if any(size > 1 for dim, size in enumerate(ids.shape) if dim != axis % ids.ndim):
        return reduce_over(tracer, ids, (axis % ids.ndim,), why=why)
    for window in windows:
        tracer.keep(_take(ids, axis, window), f"{why} in {tracer.place}")
    return ids


def _take(ids: Ids, axis: int, window: slice) -> Ids:
    if ids.shape[axis] == 1:
        return ids
    whole = [_WHOLE] * ids.ndim
    whole[axis] = window
    return ids[tuple(whole)]
