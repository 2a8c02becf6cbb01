"""The registry of families of models, by the `model_type` of their configuration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules

from torch import nn


@dataclass(frozen=True)
class Size:
    """A size read off a tensor: along an axis of a child's weight, divided by another number if need be.

    That is the one in the attribute `over`, or the size along the same axis of the child `per`.
    """

    child: str
    axis: int
    over: str | None = None
    per: str | None = None

    def measure(self, module: nn.Module) -> int:
        """Return the size that the module's tensors have now."""
        size = _size(module, self.child, self.axis)
        if self.per is not None:
            return size // _size(module, self.per, self.axis)
        return size if self.over is None else size // int(getattr(module, self.over))


@dataclass(frozen=True)
class Queries:
    """Where an attention whose queries share keys has its projections, and the size of a head."""

    query: str
    key: str
    output: str
    head_size: str


@dataclass(frozen=True)
class Blocks:
    """A list of equal blocks that can be left out, by the end of its name.

    `count` is the field of the configuration that counts them, `own_count` that of the module that holds
    them where it has a configuration of its own, `listed` are fields with an entry for each block. A block
    with a module of one of the names in `kept` has to stay, for the reason given there.
    """

    name: str
    count: str
    own_count: str | None = None
    listed: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    """A field of the configuration: the attribute that all modules of these classes have in common.

    It may be an attribute of a child, and is divided by the number in the attribute `over`.
    """

    classes: tuple[str, ...]
    attribute: str
    over: str | None = None

    def measure(self, module: nn.Module) -> int:
        """Return the number that belongs into the field, for one module."""
        *path, name = self.attribute.split(".")
        number = int(getattr(module.get_submodule(".".join(path)), name))
        return number if self.over is None else number // int(getattr(module, self.over))


@dataclass(frozen=True)
class Family:
    """What modules keep by the names of their classes, and what the configuration can say.

    `sizes` are attributes that follow tensors. `constants` are attributes that a module makes constants of,
    with the axis along which they are that large. `inexpressible` says why a class has no other shapes.
    """

    model_type: str
    sizes: Mapping[str, Mapping[str, Size]] = field(default_factory=dict)
    constants: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    queries: Mapping[str, Queries] = field(default_factory=dict)
    layers: tuple[Blocks, ...] = ()
    fields: Mapping[str, Field] = field(default_factory=dict)
    inexpressible: Mapping[str, str] = field(default_factory=dict)


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
    return next((family.sizes[name] for family in families().values() if name in family.sizes), {})


def find_constants(module: nn.Module) -> Mapping[str, int]:
    """Return the attributes that a module makes constants of, and the axis of each."""
    name = type(module).__name__
    return next((family.constants[name] for family in families().values() if name in family.constants), {})


def find_blocks(model: nn.Module, family: Family) -> Iterator[tuple[str, Blocks]]:
    """Yield the lists of blocks that a model of a family has, by their names."""
    for blocks in family.layers:
        for name, module in model.named_modules():
            if isinstance(module, nn.ModuleList) and f".{name}".endswith(f".{blocks.name}"):
                yield name, blocks
                break


def _size(module: nn.Module, child: str, axis: int) -> int:
    return int(module.get_submodule(child).weight.shape[axis])  # type: ignore[index]  # a weight is a tensor
