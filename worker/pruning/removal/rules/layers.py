"""Rules for convolutions, pooling, batch norm and embeddings."""

from typing import Any

import numpy as np
from torch import Tensor

from worker.pruning.removal.labels import FIXED, Ids
from worker.pruning.removal.rules.operands import UNREAD, add_bias, along_channels, or_fixed, read
from worker.pruning.removal.rules.registry import rule
from worker.pruning.removal.tracer import Args, Kwargs, Tracer


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution")
def convolve(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    inputs, weight, bias = args[:3]
    is_transposed, groups = (args[6], args[8]) if len(args) > 8 else (False, args[-1])
    name = tracer.name_of(weight)
    if name is None:
        for tensor in (inputs, weight):
            tracer.keep_tensor(tensor, f"meets a computed convolution weight in {tracer.place}")
        return
    out_axis, in_axis = (1, 0) if is_transposed else (0, 1)
    ids = along_channels(tracer, inputs)
    outs = tracer.axis_ids(name, out_axis, weight.shape[out_axis])
    ins = tracer.axis_ids(name, in_axis, weight.shape[in_axis])
    tracer.own(name, out_axis)
    channels = inputs.shape[1]
    if groups == 1:
        read(tracer, ids, ins)
        made = outs
    elif groups == channels and not is_transposed:  # depthwise: each output reads one channel
        tracer.keep(ins, "has one channel of input")
        made = tracer.labels.unite(np.repeat(or_fixed(ids, channels), len(outs) // groups), outs, UNREAD)
    else:
        made = _convolve_in_groups(tracer, ids, ins, outs, groups=groups, is_transposed=is_transposed)
    tracer.set_ids(result, made.reshape(1, -1, *[1] * (result.ndim - 2)))
    if isinstance(bias, Tensor):
        add_bias(tracer, result, bias, axis=1)


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "cudnn_batch_norm",
)
def normalise_batch(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: a tuple
    ids = along_channels(tracer, args[0])
    for tensor in args[1:5]:
        name = tracer.name_of(tensor) if isinstance(tensor, Tensor) else None
        if name is not None:
            ids = tracer.labels.unite(
                or_fixed(ids, len(tensor)), tracer.axis_ids(name, 0, len(tensor)), UNREAD
            )
    if ids is not None:
        tracer.set_ids(result[0], ids.reshape(1, -1, *[1] * (args[0].ndim - 2)))


@rule(
    *("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d"),
    *(
        "adaptive_max_pool2d",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "avg_pool1d",
        "max_pool1d",
        "mkldnn_max_pool2d",
    ),
)
def pool(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: a tensor or a tuple
    ids = along_channels(tracer, args[0])
    if ids is not None:
        pooled = result[0] if isinstance(result, tuple) else result
        tracer.set_ids(pooled, ids.reshape(1, -1, *[1] * (args[0].ndim - 2)))


@rule("embedding")
def embed(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    table, places = args[:2]
    # Channels that choose what is looked up have no place in what comes out.
    tracer.keep(tracer.ids(places), f"chooses what is looked up in {tracer.place}")
    name = tracer.name_of(table)
    if name is None:
        tracer.keep_tensor(table, f"is looked up in {tracer.place}")
        return
    tracer.own(name, 1)
    tracer.set_ids(result, tracer.axis_ids(name, 1, table.shape[1]).reshape([1] * (result.ndim - 1) + [-1]))


def _convolve_in_groups(
    tracer: Tracer, ids: Ids | None, ins: Ids, outs: Ids, *, groups: int, is_transposed: bool
) -> Ids:
    """Tie the channels at one place of every group together, so that the groups stay of one size."""
    if is_transposed:
        ins, outs = outs, ins
        tracer.keep(np.concatenate([ins, outs]), f"is a transposed convolution in groups in {tracer.place}")
        tracer.keep(ids, f"is a transposed convolution in groups in {tracer.place}")
        return np.full(groups * len(outs), FIXED)
    read(tracer, None if ids is None else ids.reshape(-1), np.tile(ins, groups))
    tracer.labels.unite_along(outs.reshape(groups, -1), 0)
    return outs
