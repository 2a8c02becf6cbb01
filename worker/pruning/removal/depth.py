"""Leave whole blocks out of a model, in place, for good or for a while, with a record of what stayed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from worker.pruning.errors import MaskMismatch, NoMatch
from worker.pruning.removal.families import Blocks, find_blocks, find_family

_NUMBER = "layer_idx"


@dataclass(frozen=True)
class BlockList:
    """A list of blocks of the model, by its name: what a whole block is cut out of."""

    name: str


@dataclass(frozen=True)
class Depth:
    """What stayed of a stack: the numbers, in order, that its blocks had among `blocks`."""

    name: str
    kept: tuple[int, ...]
    blocks: int

    @property
    def gone(self) -> tuple[int, ...]:
        return tuple(number for number in range(self.blocks) if number not in self.kept)

    def rename(self, tensor: str) -> str | None:
        """Return the name that a tensor or a module has now; None when it is gone with its block."""
        return self._renumber(tensor, {old: new for new, old in enumerate(self.kept)})

    def original(self, tensor: str) -> str:
        """Return the name that a tensor or a module had at first: `rename` undone."""
        name = self._renumber(tensor, dict(enumerate(self.kept)))
        if name is None:
            raise MaskMismatch(f"{self.name} has {len(self.kept)} blocks left: there is no {tensor!r}")
        return name

    def then(self, later: "Depth") -> "Depth":
        """Return the record of leaving out these blocks and then, of what stayed, those of another record."""
        return Depth(self.name, tuple(self.kept[number] for number in later.kept), self.blocks)

    def _renumber(self, tensor: str, numbers: Mapping[int, int]) -> str | None:
        if not tensor.startswith(f"{self.name}."):
            return tensor
        number, dot, rest = tensor.removeprefix(f"{self.name}.").partition(".")
        return f"{self.name}.{numbers[int(number)]}{dot}{rest}" if int(number) in numbers else None


def dump_depth(depth: Depth) -> dict[str, Any]:  # Any: plain JSON
    """Return a record as plain JSON."""
    return {"name": depth.name, "kept": list(depth.kept), "blocks": depth.blocks}


def load_depth(found: Any) -> Depth:  # Any: what dump_depth returned
    """Undo `dump_depth`."""
    return Depth(found["name"], tuple(found["kept"]), found["blocks"])


def join_depths(first: Sequence[Depth], then: Sequence[Depth]) -> tuple[Depth, ...]:
    """Return the records of leaving out what one says, then the other, in terms of what was there first."""
    joined = {depth.name: depth for depth in first}
    for depth in then:
        joined[depth.name] = joined[depth.name].then(depth) if depth.name in joined else depth
    return tuple(joined.values())


def leave_out(model: nn.Module, depths: Sequence[Depth]) -> None:
    """Leave out the blocks that are gone by these records, and their gradients, so that optimizers pass over.

    Blocks keep their order. Their own numbers and the configuration's counts of them follow.
    """
    for depth in depths:
        stack = get_stack(model, depth.name)
        for number in depth.gone:
            for parameter in stack[number].parameters():
                parameter.grad = None
        _leave_out(model, depth)


@contextmanager
def left_out(model: nn.Module, depths: Sequence[Depth]) -> Iterator[None]:
    """Leave blocks out for a while; afterwards the model is as it was."""
    with ExitStack() as undo:
        for depth in depths:
            stack = get_stack(model, depth.name)
            undo.callback(_put_back, stack, dict(stack._modules), _list_numbers(stack))
            for owner, name, _ in _list_counts(model, depth):
                undo.callback(setattr, owner, name, getattr(owner, name))
            _leave_out(model, depth)
        yield


@contextmanager
def passed_by(model: nn.Module, depths: Sequence[Depth]) -> Iterator[None]:
    """Let the hidden states pass by blocks, for a while: each puts out what it is given in their place."""
    with ExitStack() as hooks:
        for depth in depths:
            stack = get_stack(model, depth.name)
            for number in depth.gone:
                hooks.callback(stack[number].register_forward_hook(_pass_by, with_kwargs=True).remove)
        yield


def get_stack(model: nn.Module, name: str) -> nn.ModuleList | nn.Sequential:
    """Return a list of blocks by its name; raises NoMatch, naming the closest ones."""
    found = dict(model.named_modules()).get(name)
    if not isinstance(found, nn.ModuleList | nn.Sequential):
        known = [
            one for one, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)
        ]
        raise NoMatch(name, known, what="ModuleList or Sequential")
    return found


def find_declared(model: nn.Module) -> dict[str, Blocks]:
    """Return the lists of blocks that the model's family declares, by their names."""
    family = find_family(model)
    return dict(find_blocks(model, family)) if family is not None else {}


def first_state(values: object) -> Tensor | None:
    """Return the hidden states among what a block is given or puts out: the first floating-point tensor."""
    return next((leaf for leaf in tree_leaves(values) if _is_state(leaf)), None)


def _leave_out(model: nn.Module, depth: Depth) -> None:
    stack, counts = get_stack(model, depth.name), list(_list_counts(model, depth))
    for number in reversed(depth.gone):
        del stack[number]
    for number, (block, before) in enumerate(zip(stack, depth.kept, strict=True)):
        for module in block.modules():
            # Modules that know the number of their block: caches find their entries by it.
            if getattr(module, _NUMBER, None) == before:
                setattr(module, _NUMBER, number)
    for owner, name, value in counts:
        setattr(owner, name, value)


def _put_back(stack: nn.Module, members: Mapping[str, nn.Module], numbers: Mapping[nn.Module, int]) -> None:
    stack._modules.clear()
    stack._modules.update(members)
    for module, number in numbers.items():
        setattr(module, _NUMBER, number)


def _list_numbers(stack: nn.Module) -> dict[nn.Module, int]:
    return {module: getattr(module, _NUMBER) for module in stack.modules() if hasattr(module, _NUMBER)}


def _list_counts(
    model: nn.Module, depth: Depth
) -> Iterator[tuple[Any, str, Any]]:  # Any: of the library that the family is of
    """Yield what a forward pass and caches read of a configuration: whose field, its name, its value now."""
    blocks = find_declared(model).get(depth.name)
    if blocks is None:
        return
    config: Any = model.config  # Any: of the library that the family is of
    yield config, blocks.count, len(depth.kept)
    for name in blocks.listed:
        entries = getattr(config, name, None)
        if entries is not None:
            yield config, name, [entries[number] for number in depth.kept]
    own = getattr(model.get_submodule(depth.name.rpartition(".")[0]), "config", None)
    if blocks.own_count is not None and own is not None and own is not config:
        yield own, blocks.own_count, len(depth.kept)


def _pass_by(block: nn.Module, args: object, kwargs: object, outputs: object) -> object:
    given = first_state((args, kwargs))
    leaves, layout = tree_flatten(outputs)
    place = next(place for place, leaf in enumerate(leaves) if _is_state(leaf))
    return tree_unflatten([*leaves[:place], given, *leaves[place + 1 :]], layout)


def _is_state(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
