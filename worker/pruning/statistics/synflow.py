"""SynFlow's data-free objective and its gradient (Tanaka et al. 2020, equation 2).

R = 1ᵀ (∏ |W⁽ˡ⁾|) 1: the sum of the outputs for an input of ones, every weight by its absolute value. What
the paper's networks do not have is made linear, so that R stays a sum of products of |w| over paths:

- biases, BatchNorm means and shifts are zero; a BatchNorm multiplies by |γ| / sqrt(running variance + ε), a
  LayerNorm, RMSNorm or GroupNorm by |γ|. At initialisation that is the published score; later it is that of
  the network with its BatchNorms folded in.
- activation functions are the identity, which for ReLU they are anyway: nothing is negative.
- attention averages its values evenly, so queries and keys carry no flow: their gradient is zero.
- an embedding gives ones, since there is no token of ones.

Computed in float64: R grows with the product of all widths (1e28 for ResNet-20, over float32's 3e38 for some
80 layers), and is divided out in the end, which leaves every order as it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from worker.pruning.statistics.calibration import Batch, logits_of, run
from worker.pruning.statistics.layer import NonfiniteStatistics
from worker.pruning.statistics.modules import identity, parameters_by_name


def gather_flow(model: nn.Module, names: Sequence[str], batch: Batch) -> dict[str, Tensor]:
    """Return ∂R/∂|w| / R by parameter name, float64; of the batch, only shapes and dtypes matter.

    Raises NonfiniteStatistics when R overflows float64, or when nothing flows from input to output.
    """
    parameters = parameters_by_name(model)
    magnitudes = {
        identity(parameter): _magnitude(name, parameter) for name, parameter in model.named_parameters()
    }
    leaves = {name: magnitudes[identity(parameters[name])] for name in names}
    for leaf in leaves.values():
        leaf.requires_grad_()
    tensors = {name: magnitudes[identity(p)] for name, p in model.named_parameters()} | _buffers(model)
    with torch.enable_grad(), _custom_norms_scale(model), _Linear():
        flow = logits_of(run(model, _ones(batch.sample(0)), tensors)).sum()
        if not (torch.isfinite(flow) and flow > 0):
            raise NonfiniteStatistics(
                f"the flow through the network is {flow.item():g}, expected a finite number over 0: a layer "
                "is all zero, or the network is too deep for float64"
            )
        if not flow.requires_grad:  # no path runs through any of these layers
            return {name: torch.zeros_like(leaf.detach()) for name, leaf in leaves.items()}
        gradients = torch.autograd.grad(
            flow, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return {name: gradient / flow.detach() for name, gradient in zip(leaves, gradients, strict=True)}


def _magnitude(name: str, parameter: Tensor) -> Tensor:
    exact = parameter.detach().double()
    return torch.zeros_like(exact) if name.endswith("bias") else exact.abs()


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return BatchNorm's running statistics without the mean, in float64; other buffers stay."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.running_mean is not None:
            assert module.running_var is not None
            prefix = f"{name}." if name else ""
            found[prefix + "running_mean"] = torch.zeros_like(module.running_mean, dtype=torch.float64)
            found[prefix + "running_var"] = module.running_var.double()
    return found


def _ones(batch: Batch) -> Batch:
    def one(tensor: Tensor) -> Tensor:
        # Token ids and attention masks are whole numbers and stay; embeddings ignore them.
        return torch.ones_like(tensor, dtype=torch.float64) if tensor.is_floating_point() else tensor

    inputs = batch.inputs
    if isinstance(inputs, Tensor):
        return Batch(one(inputs), batch.targets, batch.size)
    if isinstance(inputs, Mapping):
        return Batch({key: one(tensor) for key, tensor in inputs.items()}, batch.targets, batch.size)
    return Batch([one(tensor) for tensor in inputs], batch.targets, batch.size)


@contextmanager
def _custom_norms_scale(model: nn.Module) -> Iterator[None]:
    """Make norms that are written out in Python (Llama's RMSNorm) multiply by |γ|, while inside."""

    def scale(module: nn.Module, args: tuple[Tensor, ...], output: object) -> Tensor:
        weight = module._parameters.get("weight")
        return args[0] if weight is None else args[0] * weight

    handles = []
    try:
        for module in model.modules():
            if type(module).__name__.endswith("Norm") and not type(module).__module__.startswith("torch."):
                handles.append(module.register_forward_hook(scale))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Linear(TorchFunctionMode):
    """Replace what is not linear in a network while inside; see the top of the file for what by what."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return _REPLACEMENTS.get(func, func)(*args, **(kwargs or {}))


def _identity(x: Tensor, *args: object, **kwargs: object) -> Tensor:
    return x


def _layer_norm(
    x: Tensor, normalized_shape: object, weight: Tensor | None = None, *rest: object, **more: object
) -> Tensor:
    return x if weight is None else x * weight


def _group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, *rest: object, **more: object
) -> Tensor:
    return x if weight is None else x * weight.reshape(1, -1, *[1] * (x.dim() - 2))


def _embedding(x: Tensor, weight: Tensor, *args: object, **kwargs: object) -> Tensor:
    return torch.ones(*x.shape, weight.shape[1], dtype=weight.dtype, device=weight.device)


def _uniform(x: Tensor, dim: int = -1, *args: object, **kwargs: object) -> Tensor:
    return torch.full_like(x, 1.0 / x.shape[dim])


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: object, **kwargs: object) -> Tensor:
    mean = value.mean(dim=-2, keepdim=True)  # [..., heads of keys, 1, head size]
    if mean.dim() > 2 and mean.shape[-3] != query.shape[-3]:  # grouped queries share a head of keys
        mean = mean.repeat_interleave(query.shape[-3] // mean.shape[-3], dim=-3)
    return mean.expand(*mean.shape[:-2], query.shape[-2], mean.shape[-1])


def _multi_head_attention(
    *args: Any,  # Any: what nn.MultiheadAttention gives to functional.multi_head_attention_forward
    v_proj_weight: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Average the values evenly, [keys, ..., width]; inside of torch's own function nothing is replaced."""
    (query, _, value), in_weight, out_weight = args[:3], args[5], args[11]
    weight = in_weight.chunk(3)[2] if v_proj_weight is None else v_proj_weight
    mean = functional.linear(value.mean(dim=0, keepdim=True), weight)  # [1, ..., width]
    flow = functional.linear(mean, out_weight).expand(query.shape)
    return flow, query.new_full((*query.shape[1:-1], len(query), len(value)), 1.0 / len(value))


_REPLACEMENTS: dict[Any, Callable[..., object]] = {  # Any: functions of torch, compared by identity
    **dict.fromkeys(
        (
            functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu6,
            functional.leaky_relu, functional.elu, functional.selu, functional.celu, functional.gelu,
            functional.silu, functional.mish, functional.softplus, functional.hardswish, functional.hardtanh,
            functional.tanh, torch.tanh, Tensor.tanh, functional.prelu,
        ),
        _identity,
    ),
    functional.layer_norm: _layer_norm,
    functional.rms_norm: _layer_norm,
    functional.group_norm: _group_norm,
    functional.embedding: _embedding,
    functional.softmax: _uniform,
    torch.softmax: _uniform,
    Tensor.softmax: _uniform,
    functional.scaled_dot_product_attention: _attention,
    functional.multi_head_attention_forward: _multi_head_attention,
}  # fmt: skip
