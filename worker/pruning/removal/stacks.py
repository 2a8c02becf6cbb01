"""Stacks: lists of blocks that follow each other, which of the blocks may be left out, and why not others."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from worker.pruning.errors import MaskMismatch
from worker.pruning.removal.check import Run, evaluating
from worker.pruning.removal.depth import Depth, find_declared, first_state, get_stack, leave_out


@dataclass(frozen=True)
class Stack:
    """A list of blocks that follow each other; `why_not` says by their numbers which have to stay."""

    name: str
    blocks: int
    why_not: Mapping[int, str]


@torch.no_grad()
def find_stacks(model: nn.Module, run: Run, names: Sequence[str] = ()) -> tuple[Stack, ...]:
    """Return the stacks that the model's family names, and those of `names`, after one run of the model.

    Each is a ModuleList or a Sequential. Raises NoMatch where a name is that of another module or of none.
    """
    declared = find_declared(model)
    stacks = {name: get_stack(model, name) for name in (*declared, *names)}
    shapes: dict[nn.Module, list[tuple[object, object]]] = {}

    def note(module: nn.Module, args: object, kwargs: object, outputs: object) -> None:
        shapes.setdefault(module, []).append((_first_shape((args, kwargs)), _first_shape(outputs)))

    with evaluating(model), ExitStack() as hooks:
        for block in {block for stack in stacks.values() for block in stack}:
            hooks.callback(block.register_forward_hook(note, with_kwargs=True).remove)
        run(model)
    return tuple(
        Stack(
            name,
            len(stack),
            dict(_judge(stack, shapes, declared[name].kept))
            if name in declared
            else _judge_undeclared(model, stack) or dict(_judge(stack, shapes, {})),
        )
        for name, stack in stacks.items()
    )


def list_undeclared(model: nn.Module) -> tuple[str, ...]:
    """Return the names of what look like stacks in a model that comes without a configuration.

    They are the outermost lists of two blocks or more, all of one class that has parts of its own and is no
    list itself.
    """
    if hasattr(model, "config"):
        return ()
    found: list[str] = []
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList | nn.Sequential) and not is_inside and _has_one_make(module):
            found.append(name)
    return tuple(found)


@torch.no_grad()
def remove_blocks(
    model: nn.Module, stacks: Sequence[Stack], kept: Mapping[str, Sequence[int]]
) -> tuple[Depth, ...]:
    """Leave out all blocks but those of the numbers `kept`, by the name of their stack; return the record.

    Raises MaskMismatch, before anything is cut, where a stack is unknown, a block has to stay or none stays.
    """
    by_name = {stack.name: stack for stack in stacks}
    depths = tuple(_check(by_name, name, numbers) for name, numbers in kept.items())
    leave_out(model, depths)
    return depths


def _has_one_make(blocks: nn.ModuleList | nn.Sequential) -> bool:
    makes = {type(block) for block in blocks}
    is_nested = makes <= {nn.Sequential, nn.ModuleList}
    return (
        len(blocks) > 1
        and len(makes) == 1
        and not is_nested
        and all(list(block.children()) for block in blocks)
    )


def _first_shape(values: object) -> tuple[int, ...] | None:
    found = first_state(values)
    return None if found is None else tuple(found.shape)


def _judge(
    stack: nn.ModuleList | nn.Sequential,
    shapes: Mapping[nn.Module, list[tuple[object, object]]],
    kept: Mapping[str, str],
) -> Iterator[tuple[int, str]]:
    """Yield the number of each block that has to stay, and why."""
    is_numbered = list(stack._modules) == [str(number) for number in range(len(stack))]
    for number, block in enumerate(stack):
        runs = shapes.get(block, [])
        held = {name.rpartition(".")[2] for name, _ in block.named_modules()} & kept.keys()
        if not is_numbered:
            yield number, "has a name in place of a number"
        elif held:
            yield number, kept[min(held)]
        elif len(runs) != 1:
            yield number, f"runs {len(runs)} times in one pass, not once"
        elif runs[0][0] is None or runs[0][0] != runs[0][1]:
            yield number, f"makes hidden states of the shape {runs[0][1]} of those of {runs[0][0]}"
        elif len(stack) == 1:
            yield number, "is the only one of its kind there"


def _judge_undeclared(model: nn.Module, stack: nn.ModuleList | nn.Sequential) -> dict[int, str]:
    """Refuse all blocks where a list of the configuration may be read by their numbers."""
    fields = getattr(getattr(model, "config", None), "__dict__", {})
    for name, value in fields.items():
        if isinstance(value, list) and len(value) == len(stack) > 1 and not name.startswith("_"):
            reason = f"may belong to an entry of {name} in the configuration, and no family says so"
            return dict.fromkeys(range(len(stack)), reason)
    return {}


def _check(stacks: Mapping[str, Stack], name: str, numbers: Sequence[int]) -> Depth:
    stack = stacks.get(name)
    if stack is None:
        raise MaskMismatch(f"there is no stack of blocks {name!r}; there are {sorted(stacks)}")
    unknown = sorted(set(numbers) - set(range(stack.blocks)))
    if unknown or not numbers:
        raise MaskMismatch(
            f"{name} has the blocks 0 to {stack.blocks - 1}, of which at least one has to stay: "
            f"found {list(numbers)}"
        )
    for number in sorted(set(range(stack.blocks)) - set(numbers)):
        if number in stack.why_not:
            raise MaskMismatch(f"block {number} of {name} has to stay: it {stack.why_not[number]}")
    return Depth(name, tuple(sorted(set(numbers))), stack.blocks)
