"""The registry of families of models, by the `model_type` of their configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules

from torch import nn


@dataclass(frozen=True)
class Size:
    """A size read off a tensor: along an axis of a child's weight, `over` the number in another attribute."""

    child: str
    axis: int
    over: str | None = None

    def measure(self, module: nn.Module) -> int:
        """Return the size that the module's tensors have now."""
        weight = module.get_submodule(self.child).weight
        size = int(weight.shape[self.axis])  # type: ignore[index]  # a weight is a tensor
        return size if self.over is None else size // int(getattr(module, self.over))


@dataclass(frozen=True)
class Family:
    """`sizes` are attributes by class name; `layers` names the list of equal blocks that can be left out."""

    model_type: str
    sizes: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)
    layers: tuple[str, ...] = ()


_families: dict[str, Family] = {}
_is_scanned = False


def register(family: Family) -> Family:
    """Register a family; raises ValueError when its model type is taken."""
    if family.model_type in _families:
        raise ValueError(f"the family {family.model_type} is registered twice")
    _families[family.model_type] = family
    return family


def families() -> dict[str, Family]:
    """Return every family by model type, sorted."""
    global _is_scanned
    if not _is_scanned:
        package = import_module("worker.pruning.removal.families")
        for found in iter_modules(package.__path__, f"{package.__name__}."):
            import_module(found.name)
        _is_scanned = True
    return dict(sorted(_families.items()))


def find_family(model: nn.Module) -> Family | None:
    """Return the family of a model by its configuration; None when it has none or an unknown one."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return families().get(str(model_type))


def find_sizes(module: nn.Module) -> Mapping[str, Size]:
    """Return the attributes of a module that are sizes, by the name of its class."""
    name = type(module).__name__
    for family in families().values():
        if name in family.sizes:
            return family.sizes[name]
    return {}
