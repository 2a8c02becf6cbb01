"""Rules for operations that take a mean, a sum or a maximum along axes, or divide by one."""

from typing import Any

import numpy as np
from torch import Tensor

from worker.pruning.removal.rules.operands import reduce_over
from worker.pruning.removal.rules.registry import rule
from worker.pruning.removal.tracer import Args, Kwargs, Tracer


@rule("native_layer_norm", "native_group_norm", "_fused_rms_norm")
def normalise(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: a tuple
    """Keep what a norm takes its mean over: without some of it the others would come out otherwise."""
    for tensor in args[:4]:
        if isinstance(tensor, Tensor):
            tracer.keep_tensor(tensor, f"is normalised over in {tracer.place}")
    tracer.set_ids(result[0], tracer.ids(args[0]))


@rule("mean", "sum", "var", "std", "amax", "amin", "max", "min", "logsumexp", "any", "all")
def reduce(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: a tensor or a tuple
    _reduce(tracer, result, args, why="is averaged over")


@rule("argmax", "argmin")
def find_place(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Keep the axis whose place is the answer: with fewer channels before it, it would be another number."""
    _reduce(tracer, result, args, why="is told by its place")


@rule("_softmax", "_log_softmax", "softmax", "log_softmax")
def normalise_exponentials(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    ids = tracer.ids(args[0])
    if ids is not None:
        tracer.set_ids(result, reduce_over(tracer, ids, (args[1] % ids.ndim,)))


def _reduce(tracer: Tracer, result: Any, args: Args, *, why: str) -> None:  # Any: a tensor or a tuple
    ids = tracer.ids(args[0])
    if ids is None:
        return
    dims = next(
        (one for one in args[1:] if isinstance(one, int | list | tuple) and not isinstance(one, bool)), None
    )
    dims = tuple(range(ids.ndim)) if dims in (None, []) else (dims,) if isinstance(dims, int) else tuple(dims)
    dims = tuple(dim % ids.ndim for dim in dims)
    ids = reduce_over(tracer, ids, dims, why=why)
    for output in result if isinstance(result, tuple) else (result,):
        is_whole = output.ndim == ids.ndim
        tracer.set_ids(output, ids if is_whole else np.squeeze(ids, dims))
