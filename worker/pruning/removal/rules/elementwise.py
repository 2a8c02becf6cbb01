"""Rules for operations that compute element by element, and for new tensors of constants."""

from typing import Any

import numpy as np
from torch import Tensor

from worker.pruning.removal.families import find_constants
from worker.pruning.removal.labels import FIXED
from worker.pruning.removal.rules.operands import Operand, merge, operand_of, reduce_over
from worker.pruning.removal.rules.registry import rule
from worker.pruning.removal.tracer import Args, Kwargs, Tracer

_ELEMENTWISE = (
    *("relu", "relu_", "gelu", "silu", "silu_", "mish", "elu", "leaky_relu", "tanh", "sigmoid", "softplus"),
    *("hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "clamp", "clamp_min", "clamp_max"),
    *("exp", "log", "sqrt", "rsqrt", "abs", "neg", "pow", "sin", "cos", "erf", "reciprocal", "logical_not"),
    *("bernoulli", "relu6", "sign", "round", "floor", "square", "sgn", "nan_to_num", "isnan", "isinf"),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "rsub", "maximum", "minimum", "where"),
    *("masked_fill", "masked_fill_", "eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or"),
    *("leaky_relu_", "elu_", "mish_", "sigmoid_", "tanh_", "hardsigmoid_", "celu", "celu_", "threshold"),
    *("threshold_", "log_sigmoid_forward"),
    *("logical_and", "logical_or", "addcmul", "addcdiv", "lerp", "prelu", "_prelu_kernel", "remainder"),
)
# They make one number over and over, so that any of it can be cut off.
_UNIFORM = (
    *("ones", "full", "empty", "scalar_tensor", "zeros_like", "ones_like", "full_like", "empty_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
)
# They make tensors or numbers that nothing of the operands' labels is in.
_CONSTANTS = (
    *("arange", "_local_scalar_dense", "_assert_async", "_assert_scalar", "sym_size", "linspace", "eye"),
)


@rule(*_UNIFORM)
def make_uniform(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    tracer.set_ids(result, np.full((1,) * result.ndim, FIXED))


@rule("zeros")
def make_zeros(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Label zeros that the running module counts in an attribute, so that it makes fewer later."""
    make_uniform(tracer, result, args, kwargs)
    for attribute, axis in find_constants(module := tracer.module[1]).items():
        if result.ndim > axis and result.shape[axis] == getattr(module, attribute):
            ids = tracer.knob_ids(attribute, result.shape[axis])
            tracer.set_ids(result, ids.reshape([-1 if dim == axis else 1 for dim in range(result.ndim)]))


@rule(*_CONSTANTS)
def make_constant(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: of ATen
    """Leave the result without labels."""


@rule(*_ELEMENTWISE)
def elementwise(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: a tensor or a tuple
    result = result[0] if isinstance(result, tuple) else result
    merged: Operand | None = None
    for tensor in args:
        if isinstance(tensor, Tensor):
            operand = operand_of(tracer, tensor, result.ndim)
            merged = operand if merged is None else merge(tracer, merged, operand)
    if merged is not None:
        tracer.set_ids(result, merged.ids)


@rule("tril", "triu")
def cut_to_triangle(tracer: Tracer, result: Tensor, args: Args, kwargs: Kwargs) -> None:
    """Keep what lies along the two axes of the triangle: its corners are places of the code."""
    ids = tracer.ids(args[0])
    if ids is not None:
        axes = (ids.ndim - 2, ids.ndim - 1)
        tracer.set_ids(result, reduce_over(tracer, ids, axes, why="is cut to a triangle", is_kept=True))


@rule("gather", "index_copy", "scatter", "topk", "sort")
def pick(tracer: Tracer, result: Any, args: Args, kwargs: Kwargs) -> None:  # Any: a tensor or a tuple
    for tensor in args:
        if isinstance(tensor, Tensor):
            tracer.keep_tensor(tensor, f"is picked by values in {tracer.place}")
