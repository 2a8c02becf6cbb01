"""Leave whole blocks out of a model, in place, where they leave the shape of hidden states as it is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from worker.pruning.errors import MaskMismatch, NoMatch
from worker.pruning.removal.check import Run
from worker.pruning.removal.families import Blocks, find_blocks, find_family

_NUMBER = "layer_idx"


@dataclass(frozen=True)
class Stack:
    """A list of blocks that follow each other; `why_not` says by their numbers which have to stay."""

    name: str
    blocks: int
    why_not: Mapping[int, str]


@dataclass(frozen=True)
class Depth:
    """What stayed of a stack: the numbers, in order, that its blocks had among `blocks`."""

    name: str
    kept: tuple[int, ...]
    blocks: int

    def rename(self, tensor: str) -> str | None:
        """Return the name that a tensor or a module has now; None when it is gone with its block."""
        if not tensor.startswith(f"{self.name}."):
            return tensor
        number, dot, rest = tensor.removeprefix(f"{self.name}.").partition(".")
        return f"{self.name}.{self.kept.index(int(number))}{dot}{rest}" if int(number) in self.kept else None


@torch.no_grad()
def find_stacks(model: nn.Module, run: Run, names: Sequence[str] = ()) -> tuple[Stack, ...]:
    """Return the stacks that the model's family names, and those of `names`, after one run of the model.

    Each is a ModuleList or a Sequential. Raises NoMatch where a name is that of another module or of none.
    """
    declared = _find_declared(model)
    stacks = {name: _get_stack(model, name) for name in (*declared, *names)}
    shapes: dict[nn.Module, list[tuple[object, object]]] = {}

    def note(module: nn.Module, args: object, kwargs: object, outputs: object) -> None:
        shapes.setdefault(module, []).append((_first_shape((args, kwargs)), _first_shape(outputs)))

    was_training = model.training
    model.eval()
    try:
        with ExitStack() as hooks:
            for block in {block for stack in stacks.values() for block in stack}:
                hooks.callback(block.register_forward_hook(note, with_kwargs=True).remove)
            run(model)
    finally:
        model.train(was_training)
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


@torch.no_grad()
def remove_blocks(
    model: nn.Module, stacks: Sequence[Stack], kept: Mapping[str, Sequence[int]]
) -> tuple[Depth, ...]:
    """Leave out all blocks but those of the numbers `kept`, by the name of their stack; return the record.

    Blocks keep their order. Their own numbers and the configuration's counts of them follow. Raises
    MaskMismatch, before anything is cut, where a stack is unknown, a block has to stay or none is left.
    """
    by_name = {stack.name: stack for stack in stacks}
    depths = tuple(_check(by_name, name, numbers) for name, numbers in kept.items())
    declared = _find_declared(model)
    for depth in depths:
        stack = _get_stack(model, depth.name)
        for number in sorted(set(range(depth.blocks)) - set(depth.kept), reverse=True):
            del stack[number]
        for number, (block, before) in enumerate(zip(stack, depth.kept, strict=True)):
            _renumber(block, before, number)
        if depth.name in declared:
            _count(model, depth, declared[depth.name])
    return depths


def _find_declared(model: nn.Module) -> dict[str, Blocks]:
    family = find_family(model)
    return dict(find_blocks(model, family)) if family is not None else {}


def _get_stack(model: nn.Module, name: str) -> nn.ModuleList | nn.Sequential:
    found = dict(model.named_modules()).get(name)
    if not isinstance(found, nn.ModuleList | nn.Sequential):
        known = [
            one for one, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)
        ]
        raise NoMatch(name, known, what="ModuleList or Sequential")
    return found


def _first_shape(values: object) -> tuple[int, ...] | None:
    found = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return next((tuple(leaf.shape) for leaf in found), None)


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


def _renumber(block: nn.Module, before: int, number: int) -> None:
    """Give modules that know the number of their block the new one: caches find their entries by it."""
    for module in block.modules():
        if getattr(module, _NUMBER, None) == before:
            setattr(module, _NUMBER, number)


def _count(model: nn.Module, depth: Depth, blocks: Blocks) -> None:
    """Set what the forward pass and caches read of the configuration: counts, and lists of the blocks."""
    config: Any = model.config  # Any: of the library that the family is of
    setattr(config, blocks.count, len(depth.kept))
    for name in blocks.listed:
        entries = getattr(config, name, None)
        if entries is not None:
            setattr(config, name, [entries[number] for number in depth.kept])
    own = getattr(model.get_submodule(depth.name.rpartition(".")[0]), "config", None)
    if blocks.own_count is not None and own is not None and own is not config:
        setattr(own, blocks.own_count, len(depth.kept))
