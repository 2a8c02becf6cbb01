"""Say in the words of a family's own configuration what shape a cut model has, where those suffice."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worker.pruning.removal.families import Family, find_blocks, find_family

Fields = dict[str, Any]  # Any: values of JSON


@dataclass(frozen=True)
class Inexpressible:
    """The configuration cannot express the model, for this reason."""

    reason: str


def express(model: nn.Module) -> Fields | Inexpressible:
    """Return the fields to write over the model's configuration, so that it builds this very shape.

    They are proven: a model of the same class is built from them without memory for its weights, and all of
    its tensors and all numbers of its attentions are compared.
    """
    family = find_family(model)
    if family is None:
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        return Inexpressible(f"no family is declared for the model type {model_type!r}")
    fields = _measure(model, family)
    if isinstance(fields, Inexpressible):
        return fields
    config: Any = model.config  # Any: of the library that the family is of
    try:
        with torch.device("meta"):
            fresh = type(model)(type(config).from_dict(config.to_dict() | fields))
    except MemoryError:
        # The machine's fault, not the configuration's.
        raise
    except Exception as error:  # whatever a configuration raises that does not take these numbers
        said = " ".join(str(error).split())
        return Inexpressible(f"the configuration does not take {_show(fields)}: {said}")
    for name, reason in _differ(model, fresh, family):
        known = _find_reason(model, name, family)
        return Inexpressible(f"{reason}: {known}" if known else reason)
    return fields


def count_blocks(model: nn.Module) -> Fields:
    """Return the fields that say how many blocks a model has, and of what kind; none without a family."""
    family, fields = find_family(model), Fields()
    config: Any = getattr(model, "config", None)  # Any: of the library that the family is of
    for stack, blocks in find_blocks(model, family) if family else ():
        fields[blocks.count] = len(list(model.get_submodule(stack).children()))
        listed = {name: getattr(config, name, None) for name in blocks.listed}
        fields |= {name: list(entries) for name, entries in listed.items() if entries is not None}
    return fields


def _measure(model: nn.Module, family: Family) -> Fields | Inexpressible:
    fields: Fields = {}
    for name, field in family.fields.items():
        found = {
            field.measure(module) for module in model.modules() if type(module).__name__ in field.classes
        }
        if len(found) > 1:
            numbers = ", ".join(map(str, sorted(found)))
            return Inexpressible(
                f"the layers differ in {name} ({numbers}), and the configuration has one for all"
            )
        if found:
            fields[name] = found.pop()
    return fields | count_blocks(model)


def _differ(model: nn.Module, fresh: nn.Module, family: Family) -> Iterator[tuple[str, str]]:
    """Yield what differs between a model and one built from its configuration: a name, and what is what."""
    shapes = [_shapes(one) for one in (model, fresh)]
    for name in [*shapes[0], *(name for name in shapes[1] if name not in shapes[0])]:
        found, made = (one.get(name) for one in shapes)
        if found != made:
            yield name, f"{name} is {_or_none(found)}, the configuration makes it {_or_none(made)}"
    for name, module in model.named_modules():
        if type(module).__name__ in family.sizes:
            numbers = [_numbers(one) for one in (module, fresh.get_submodule(name))]
            for attribute in sorted({key for one in numbers for key in one}):
                found_number, made_number = (one.get(attribute) for one in numbers)
                if found_number != made_number:
                    said = f"is {found_number}, the configuration makes it {made_number}"
                    yield name, f"{name}.{attribute} {said}"


def _shapes(model: nn.Module) -> Mapping[str, list[int]]:
    parameters = model.named_parameters(remove_duplicate=False)
    return {
        name: list(tensor.shape)
        for name, tensor in (*parameters, *model.named_buffers(remove_duplicate=False))
    }


def _numbers(module: nn.Module) -> Mapping[str, float]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _find_reason(model: nn.Module, name: str, family: Family) -> str | None:
    """Return what the family says about the modules around a tensor."""
    path = name.split(".")
    for length in range(len(path), 0, -1):
        module = dict(model.named_modules()).get(".".join(path[:length]))
        if (reason := family.inexpressible.get(type(module).__name__)) is not None:
            return reason
    return None


def _or_none(shape: list[int] | None) -> object:
    return "missing" if shape is None else shape


def _show(fields: Fields) -> str:
    return ", ".join(f"{name} = {value}" for name, value in fields.items())
