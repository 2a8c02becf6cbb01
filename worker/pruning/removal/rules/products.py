"""Rules for matrix products, with the model's own matrices and of computed tensors, and for attention."""

from typing import Any

import numpy as np
from torch import Tensor

from worker.pruning.removal.rules.operands import Operand, add_bias, merge, operand_of, read, reduce_over
from worker.pruning.removal.rules.registry import argument, rule
from worker.pruning.removal.tracer import Args, Kwargs, Matrix, Tracer


@rule("addmm", "_addmm_activation")
def add_product(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    bias, left, right = args[:3]
    product(tracer, result, (left, right), kwargs)
    add_bias(tracer, result, bias)


@rule("mm", "bmm", "matmul", "mv", "dot")
def product(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Contract the last axis of the left with the last but one of the right."""
    left, right = args[:2]
    weight = tracer.matrix(right)
    if weight is not None:
        _apply_weight(tracer, result, left, weight)
    elif tracer.matrix(left) is not None or left.ndim < 2 or right.ndim < 2:
        for tensor in (left, right):
            tracer.keep_tensor(tensor, f"is multiplied from the left by a weight in {tracer.place}")
    else:
        _contract(tracer, result, left, right)


@rule("baddbmm")
def add_batched_product(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    product(tracer, result, args[1:3], kwargs)
    add_bias(tracer, result, args[0])


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
)
def attend(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: a tensor or a tuple
    """Tie the heads of queries, keys and values together; each head stays whole."""
    outputs = result[0] if isinstance(result, tuple) else result
    query, key, value = args[:3]
    merged = _rows(tracer, query)
    for tensor in (key, value):
        merged = merge(tracer, merged, _repeat_heads(_rows(tracer, tensor), query.shape[-3]))
    mask = kwargs.get("attn_mask", argument(args, 3))
    if isinstance(mask, Tensor):
        merged = merge(tracer, merged, operand_of(tracer, mask, outputs.ndim))
    tracer.set_ids(outputs, merged.ids)


def _rows(tracer: Tracer, tensor: Tensor) -> Operand:
    """Return the operand of queries, keys or values [b, heads, t, size], each head whole."""
    ids = tracer.ids(tensor)
    shape = (*tensor.shape[:-2], 1, 1)
    return Operand(None if ids is None else reduce_over(tracer, ids, (ids.ndim - 2, ids.ndim - 1)), shape)


def _repeat_heads(keys: Operand, heads: int) -> Operand:
    """Give each head of the queries its head of the keys, which several may share."""
    if keys.ids is None or keys.shape[-3] == heads:
        return keys
    wide = np.broadcast_to(keys.ids, keys.shape)
    return Operand(np.repeat(wide, heads // keys.shape[-3], axis=-3), (*keys.shape[:-3], heads, 1, 1))


def _contract(tracer: Tracer, result: Tensor, left: Tensor, right: Tensor) -> None:
    """Contract two computed tensors [..., m, k] and [..., k, n]."""
    one, other = tracer.ids(left), tracer.ids(right)
    one = None if one is None else reduce_over(tracer, one, (one.ndim - 1,))
    other = None if other is None else reduce_over(tracer, other, (other.ndim - 2,))
    batch = range(result.ndim - 2)
    if any(ids is not None and ids.shape[axis] > 1 for ids in (one, other) for axis in batch):
        shape = (*result.shape[:-2], 1, 1)
        operands = [
            Operand(None if ids is None else reduce_over(tracer, ids, (ids.ndim - 2, ids.ndim - 1)), shape)
            for ids in (one, other)
        ]
        tracer.set_ids(result, merge(tracer, *operands).ids)
        return
    labelled = [ids for ids in (one, other) if ids is not None and max(ids.shape) > 1]
    if len(labelled) == 1:
        tracer.set_ids(result, labelled[0])
    for ids in labelled if len(labelled) > 1 else ():
        tracer.keep(ids, f"is combined along another axis in {tracer.place}")


def _apply_weight(tracer: Tracer, result: Tensor, left: Tensor, weight: Matrix) -> None:
    """Multiply [..., in] by a weight, from the right."""
    ins = tracer.axis_ids(weight.name, weight.in_axis, left.shape[-1])
    outs = tracer.axis_ids(weight.name, weight.out_axis, result.shape[-1])
    ids = tracer.ids(left)
    if ids is not None and max(ids.shape[:-1], default=1) > 1:
        for kept in (ins, outs, *([ids] if ids.shape[-1] > 1 else [])):
            tracer.keep(kept, f"mixes another axis than that of the channels in {tracer.place}")
        tracer.set_ids(result, None if ids.shape[-1] > 1 else ids)
        return
    tracer.own(weight.name, weight.out_axis)
    read(tracer, None if ids is None else ids.reshape(-1), ins)
    tracer.set_ids(result, outs.reshape([1] * (result.ndim - 1) + [-1]))
