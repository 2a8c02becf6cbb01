"""Which modules hold a parameter: tied weights have several names and several owners."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from worker.pruning.errors import NoMatch, UnsuitableLayer
from worker.pruning.statistics.layer import is_transposed

_WITH_ACTIVATIONS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter under every one of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def check_names(model: nn.Module, names: Iterable[str]) -> None:
    """Raise NoMatch for the first name that is no parameter of the model."""
    known = parameters_by_name(model)
    for name in names:
        if name not in known:
            raise NoMatch(name, known, what="parameter")


def identity(weight: Tensor) -> object:
    """Return what two tensors share when they are tied: one object, or one view of one storage."""
    pointer = weight.data_ptr() if weight.device.type != "meta" else 0
    return (pointer, weight.shape, weight.stride(), weight.dtype) if pointer else id(weight)


def owners(model: nn.Module, names: Sequence[str]) -> dict[str, tuple[nn.Module, ...]]:
    """Return the modules that hold each named parameter, the module of that very name first."""
    holding: dict[object, list[nn.Module]] = {}
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                holding.setdefault(identity(weight), []).append(module)
    parameters = parameters_by_name(model)
    result = {}
    for name in names:
        own = model.get_submodule(name.rpartition(".")[0])
        others = [module for module in holding[identity(parameters[name])] if module is not own]
        result[name] = (own, *others)
    return result


def check_has_activations(name: str, module: nn.Module) -> None:
    """Raise UnsuitableLayer unless inputs and outputs of the module match its weight one to one."""
    if not isinstance(module, _WITH_ACTIVATIONS) and not is_transposed(module):
        raise UnsuitableLayer(
            f"{name}: activations are gathered for Linear layers and convolutions, "
            f"not for {type(module).__name__}"
        )


def groups_of(module: nn.Module) -> int:
    """Return into how many groups of channels a convolution falls, 1 for everything else."""
    return module.groups if isinstance(module, nn.modules.conv._ConvNd) else 1
