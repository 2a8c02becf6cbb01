"""The registry of rules: what each operation of ATen means for labels; one file a kind, found by a scan."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from worker.pruning.removal.tracer import Rule

_rules: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function for operations; raises ValueError when one of them has a rule."""

    def decorate(function: Rule) -> Rule:
        for name in names:
            if f"aten.{name}" in _rules:
                raise ValueError(f"{name} has two rules")
            _rules[f"aten.{name}"] = function
        return function

    return decorate


def argument(args: tuple[Any, ...], position: int, default: Any = None) -> Any:  # Any: of any operation
    """Return a positional argument that may have been left out."""
    return args[position] if len(args) > position else default


def rules() -> Mapping[str, Rule]:
    """Return every rule by the name of its operation."""
    package = import_module("worker.pruning.removal.rules")
    for found in iter_modules(package.__path__, f"{package.__name__}."):
        import_module(found.name)
    return _rules
