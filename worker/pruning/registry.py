"""Find criteria, patterns, allocations and schedules: a decorator on the class, a scan over the folder.

Adding one is adding one file. Its class is a frozen pydantic model whose fields are the parameters, so the
JSON Schema, the defaults and the validation come from the class itself.
"""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.pruning.errors import PruningError

Kind = Literal["criterion", "block_criterion", "pattern", "allocation", "schedule"]
Need = Literal["weights", "gradients", "activations", "training"]
FOLDERS: Mapping[Kind, str] = {
    "criterion": "criteria",
    "block_criterion": "block_criteria",
    "pattern": "patterns",
    "allocation": "allocations",
    "schedule": "schedules",
}


class Plugin(BaseModel):
    """Base of every registered class: its fields are its parameters, nothing else is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Entry:
    """One registered plug-in; `source` is the paper with its equation or section."""

    kind: Kind
    name: str
    cls: type[Plugin]
    needs: tuple[Need, ...]
    source: str

    @property
    def summary(self) -> str:
        return (self.cls.__doc__ or "").strip().splitlines()[0]


class UnknownPlugin(PruningError, LookupError):
    """The recipe names a plug-in that is not registered."""


class InvalidParams(PruningError, ValueError):
    """The recipe gives a plug-in parameters that it does not take."""


_entries: dict[tuple[Kind, str], Entry] = {}
_scanned: set[Kind] = set()
P = TypeVar("P", bound=Plugin)


def register(
    kind: Kind, name: str, *, source: str, needs: tuple[Need, ...] = ("weights",)
) -> Callable[[type[P]], type[P]]:
    """Register the decorated class under `name`; a second class of that name is an error."""

    def decorate(cls: type[P]) -> type[P]:
        known = _entries.get((kind, name))
        if known is not None and known.cls.__qualname__ != cls.__qualname__:
            raise ValueError(f"{kind} {name!r} is registered twice: {known.cls!r} and {cls!r}")
        _entries[kind, name] = Entry(kind, name, cls, needs, source)
        return cls

    return decorate


def entries(kind: Kind) -> dict[str, Entry]:
    """Return what is registered of one kind, by name, sorted."""
    if kind not in _scanned:
        package = importlib.import_module(f"worker.pruning.{FOLDERS[kind]}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
        _scanned.add(kind)
    return {name: entry for (k, name), entry in sorted(_entries.items()) if k == kind}


def build(kind: Kind, name: str, params: Mapping[str, Any]) -> Plugin:  # Any: JSON, checked by the class
    """Make the plug-in `name` with `params`; raise UnknownPlugin (naming all) or InvalidParams."""
    known = entries(kind)
    if kind == "criterion" and name in entries("block_criterion"):
        raise UnknownPlugin(
            f"{name} scores whole blocks, not weights: it is for a structure of the kinds ['block']; "
            f"expected one of: {', '.join(known)}"
        )
    if name not in known:
        raise UnknownPlugin(f"there is no {kind} {name!r}; there are: {', '.join(known)}")
    try:
        # By way of JSON, since that is what parameters are: a list is a list, a string is never a number.
        return known[name].cls.model_validate_json(json.dumps(dict(params)))
    except (ValidationError, TypeError) as error:
        raise InvalidParams(f"{kind} {name}: {error}") from error
