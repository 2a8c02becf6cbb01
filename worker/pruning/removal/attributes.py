"""The attributes in which modules keep their sizes, set anew from the shapes of their tensors.

Those of torch's modules are known here, those of other libraries' are declared in `families`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from worker.pruning.removal.families import find_sizes

Attributes = dict[str, Any]  # Any: what modules keep of their sizes, numbers and tuples
_BATCH_NORMS = (nn.modules.batchnorm._NormBase,)


def read_attributes(model: nn.Module) -> dict[str, Attributes]:
    """Return the sizes that every module keeps, by its name."""
    return {
        name: {key: getattr(module, key) for key in keys}
        for name, module in model.named_modules()
        if (keys := _list_attributes(module))
    }


def write_attributes(model: nn.Module, attributes: Mapping[str, Attributes]) -> None:
    """Put back what `read_attributes` returned."""
    for name, values in attributes.items():
        module = model.get_submodule(name)
        for key, value in values.items():
            setattr(module, key, value)


def refresh_attributes(model: nn.Module, before: Mapping[str, Attributes]) -> None:
    """Set every module's sizes from the shapes that its tensors have now; `before` are those of old."""
    for name, values in before.items():
        module = model.get_submodule(name)
        for key, value in _measure(module, values).items():
            setattr(module, key, value)


def _list_attributes(module: nn.Module) -> tuple[str, ...]:
    for kind, (keys, _) in _KNOWN.items():
        if isinstance(module, kind):
            return keys
    if _is_conv1d(module):
        return ("nf", "nx")
    return tuple(find_sizes(module))


def _measure(module: nn.Module, before: Attributes) -> Attributes:
    for kind, (_, measure) in _KNOWN.items():
        if isinstance(module, kind):
            return measure(module, before)
    if _is_conv1d(module):
        return {"nx": module.weight.shape[0], "nf": module.weight.shape[1]}  # type: ignore[index]  # a weight is a tensor
    return {key: size.measure(module) for key, size in find_sizes(module).items()}


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _measure_linear(module: Any, before: Attributes) -> Attributes:  # Any: modules of torch, by kind
    return {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}


def _measure_convolution(module: Any, before: Attributes) -> Attributes:  # Any: the same
    groups, weight = before["groups"], module.weight
    if module.transposed:
        return {"groups": groups, "in_channels": weight.shape[0], "out_channels": weight.shape[1] * groups}
    if 1 < groups == before["in_channels"]:  # depthwise: a group for every channel
        groups = weight.shape[0] // (before["out_channels"] // groups)
    return {"groups": groups, "in_channels": weight.shape[1] * groups, "out_channels": weight.shape[0]}


def _measure_batch_norm(module: Any, before: Attributes) -> Attributes:  # Any: the same
    held = module.weight if module.weight is not None else module.running_mean
    return {} if held is None else {"num_features": len(held)}


def _measure_layer_norm(module: Any, before: Attributes) -> Attributes:  # Any: the same
    return {} if module.weight is None else {"normalized_shape": tuple(module.weight.shape)}


def _measure_embedding(module: Any, before: Attributes) -> Attributes:  # Any: the same
    return {"num_embeddings": module.weight.shape[0], "embedding_dim": module.weight.shape[1]}


def _measure_prelu(module: Any, before: Attributes) -> Attributes:  # Any: the same
    return {"num_parameters": len(module.weight)}


_KNOWN: Mapping[
    type[nn.Module] | tuple[type[nn.Module], ...],
    tuple[tuple[str, ...], Callable[[Any, Attributes], Attributes]],  # Any: modules of torch, by kind
] = {
    nn.Linear: (("in_features", "out_features"), _measure_linear),
    nn.modules.conv._ConvNd: (("groups", "in_channels", "out_channels"), _measure_convolution),
    _BATCH_NORMS: (("num_features",), _measure_batch_norm),
    nn.LayerNorm: (("normalized_shape",), _measure_layer_norm),
    nn.Embedding: (("num_embeddings", "embedding_dim"), _measure_embedding),
    nn.PReLU: (("num_parameters",), _measure_prelu),
}
