"""Cut units and blocks out of a model, in place: parameters stay the same objects, so ties hold."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.pruning.errors import MaskMismatch
from worker.pruning.removal.attributes import read_attributes, refresh_attributes, write_attributes
from worker.pruning.removal.depth import (
    BlockList,
    Depth,
    dump_depth,
    get_stack,
    join_depths,
    leave_out,
    left_out,
    load_depth,
    passed_by,
)
from worker.pruning.removal.families import find_constants
from worker.pruning.removal.groups import Group
from worker.pruning.removal.protocols import PADDED, PadsChannels
from worker.pruning.removal.tracer import Axis, Knob


@dataclass(frozen=True)
class Removal:
    """What stays: positions along axes, int64 [kept], in their old order, and counts of padded channels.

    `depths` say which blocks stay; what is cut besides has the names that it had with all of them.
    """

    kept: Mapping[Axis, Tensor]
    counts: Mapping[Knob, int]
    depths: tuple[Depth, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors that get smaller, sorted."""
        return tuple(sorted({where.tensor for where in self.kept}))

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """Return what stays of a tensor of the shape that the named one had, or of size 1 along some axes."""
        for where, positions in self.kept.items():
            if where.tensor == name and tensor.shape[where.axis] > 1:
                tensor = tensor.index_select(where.axis, positions.to(tensor.device))
        return tensor

    def rename(self, tensor: str) -> str | None:
        """Return the name that a tensor has afterwards; None when it is gone with its block."""
        name: str | None = tensor
        for depth in self.depths:
            name = None if name is None else depth.rename(name)
        return name

    def original(self, tensor: str) -> str:
        """Return the name that a tensor had before: `rename` undone."""
        for depth in self.depths:
            tensor = depth.original(tensor)
        return tensor


def plan_removal(model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Tensor]) -> Removal:
    """Return the removal that leaves the kept units, bool [units] by group name; groups not named stay whole.

    Raises MaskMismatch where a group is unknown, cannot be cut, has another number of units or loses all.
    """
    by_name = {group.name: group for group in groups}
    gone: dict[Axis | Knob | BlockList, list[Tensor]] = {}
    for name, units in kept.items():
        group = _check(by_name, name, units)
        for cut in group.cuts:
            gone.setdefault(cut.where, []).append(cut.index[~units.cpu()].reshape(-1))
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    positions: dict[Axis, Tensor] = {}
    counts: dict[Knob, int] = {}
    depths: list[Depth] = []
    for where, removed in gone.items():
        count = sum(map(len, removed))
        if count == 0:
            continue
        if isinstance(where, BlockList):
            depths.append(_plan_depth(model, where, removed))
            continue
        if isinstance(where, Knob):
            counts[where] = getattr(model.get_submodule(where.module), where.attribute) - count
            continue
        is_kept = torch.ones(tensors[where.tensor].shape[where.axis], dtype=torch.bool)
        is_kept[torch.cat(removed)] = False
        positions[where] = is_kept.nonzero().reshape(-1)
    return Removal(positions, counts, tuple(depths))


def remove(model: nn.Module, removal: Removal) -> None:
    """Cut the model's tensors, set the attributes that say how large they are, and leave out its blocks.

    Gradients are dropped. Optimizers go on with the same parameters; `cut_state` makes their memory fit.
    Parameters of blocks that are gone have no gradient, so that optimizers pass them over.
    """
    _cut_tensors(model, removal)
    leave_out(model, removal.depths)


def dump_removal(removal: Removal) -> dict[str, Any]:  # Any: plain JSON
    """Return a removal as plain JSON."""
    return {
        "kept": [
            {"tensor": where.tensor, "axis": where.axis, "positions": positions.tolist()}
            for where, positions in removal.kept.items()
        ],
        "counts": [
            {"module": knob.module, "attribute": knob.attribute, "count": count}
            for knob, count in removal.counts.items()
        ],
        "blocks": [dump_depth(depth) for depth in removal.depths],
    }


def load_removal(found: Any) -> Removal:  # Any: what dump_removal returned
    """Undo `dump_removal`."""
    return Removal(
        {Axis(row["tensor"], row["axis"]): torch.tensor(row["positions"]) for row in found["kept"]},
        {Knob(row["module"], row["attribute"]): row["count"] for row in found["counts"]},
        tuple(load_depth(row) for row in found.get("blocks", ())),
    )


def compose(first: Removal, then: Removal) -> Removal:
    """Return the removal that does what one does after the other, in terms of what was there at first."""
    kept, counts = dict(first.kept), dict(first.counts)
    for where, positions in then.kept.items():
        axis = Axis(first.original(where.tensor), where.axis)
        kept[axis] = kept[axis][positions] if axis in kept else positions
    for knob, count in then.counts.items():
        counts[Knob(first.original(knob.module), knob.attribute)] = count
    return Removal(kept, counts, join_depths(first.depths, then.depths))


def cut_state(optimizer: torch.optim.Optimizer, model: nn.Module, removal: Removal) -> None:
    """Cut what an optimizer remembers of each parameter of a model that was cut.

    It may remember one number along an axis, as Adafactor does. Memory of other shapes is left as it is.
    """
    for now, parameter in model.named_parameters():
        name = removal.original(now)
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and _is_memory(value, parameter, removal, name):
                optimizer.state[parameter][key] = removal.cut(name, value)


def resize(model: nn.Module, shapes: Mapping[str, Sequence[int]], counts: Mapping[Knob, int]) -> None:
    """Give a whole model the shapes of a cut one, its values arbitrary, so that the cut one's state loads.

    Raises MaskMismatch where a shape is no part of the model's own, or a count is none that modules keep.
    """
    attributes = read_attributes(model)
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    for name, tensor in tensors.items():
        shape = tuple(shapes.get(name, tensor.shape))
        if shape == tuple(tensor.shape):
            continue
        is_part = len(shape) == tensor.ndim and all(map(_is_part, shape, tensor.shape))
        if not is_part:
            raise MaskMismatch(f"{name} is {list(shape)}, which is no part of {list(tensor.shape)}")
        tensor.data = tensor.data.new_empty(shape)
    for knob in counts:
        _check_knob(model, knob)
    _set_counts(model, counts)
    refresh_attributes(model, attributes)


@contextmanager
@torch.no_grad()
def removed(model: nn.Module, removal: Removal) -> Iterator[None]:
    """Cut a model for a while; afterwards it is as it was."""
    attributes = read_attributes(model)
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    whole = {name: (tensors[name].data, tensors[name].grad) for name in removal.tensors}
    counts = {knob: getattr(model.get_submodule(knob.module), knob.attribute) for knob in removal.counts}
    try:
        _cut_tensors(model, removal)
        with left_out(model, removal.depths):
            yield
    finally:
        for name, (data, grad) in whole.items():
            tensors[name].data = data
            tensors[name].grad = grad
        _set_counts(model, counts)
        write_attributes(model, attributes)


@contextmanager
@torch.no_grad()
def masked(model: nn.Module, removal: Removal) -> Iterator[None]:
    """Zero, for a while, the parameters that a removal would cut: the model that it has to agree with.

    Scales and shifts of norms are zeroed too, so that no constant comes out of a channel that is gone. Blocks
    are passed by.
    """
    parameters = dict(model.named_parameters())
    whole = {name: parameters[name].data for name in removal.tensors if name in parameters}
    try:
        for name, data in whole.items():
            zeroed = data.clone()
            for where, positions in removal.kept.items():
                if where.tensor == name:
                    is_gone = torch.ones(data.shape[where.axis], dtype=torch.bool, device=data.device)
                    is_gone[positions] = False
                    zeroed.index_fill_(where.axis, is_gone.nonzero().reshape(-1), 0.0)
            parameters[name].data = zeroed
        with passed_by(model, removal.depths):
            yield
    finally:
        for name, data in whole.items():
            parameters[name].data = data


@torch.no_grad()
def _cut_tensors(model: nn.Module, removal: Removal) -> None:
    attributes = read_attributes(model)
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    for name in removal.tensors:
        tensors[name].data = removal.cut(name, tensors[name].data).contiguous()
        tensors[name].grad = None
    _set_counts(model, removal.counts)
    refresh_attributes(model, attributes)


def _plan_depth(model: nn.Module, where: BlockList, removed: Sequence[Tensor]) -> Depth:
    blocks, gone = len(get_stack(model, where.name)), set(torch.cat(list(removed)).tolist())
    kept = tuple(number for number in range(blocks) if number not in gone)
    if not kept:
        raise MaskMismatch(f"one block of {where.name} has to stay at least")
    return Depth(where.name, kept, blocks)


def _set_counts(model: nn.Module, counts: Mapping[Knob, int]) -> None:
    for knob, count in counts.items():
        setattr(model.get_submodule(knob.module), knob.attribute, count)


def _is_memory(value: Tensor, parameter: Tensor, removal: Removal, name: str) -> bool:
    """Tell whether a tensor has the shape that a parameter had before the cut, or size 1 along some axes."""
    if name not in removal.tensors or value.ndim != parameter.ndim:
        return False
    cut = {where.axis: positions for where, positions in removal.kept.items() if where.tensor == name}
    return all(
        size == 1 or (int(cut[axis].max()) < size if axis in cut else size == parameter.shape[axis])
        for axis, size in enumerate(value.shape)
    )


def _is_part(size: int, whole: int) -> bool:
    return 1 <= size <= whole


def _check_knob(model: nn.Module, knob: Knob) -> None:
    module = dict(model.named_modules()).get(knob.module)
    is_padding = isinstance(module, PadsChannels) and knob.attribute in PADDED
    if module is None or not (is_padding or knob.attribute in find_constants(module)):
        raise MaskMismatch(f"{knob.module or 'the model'} keeps no count of channels {knob.attribute!r}")


def _check(groups: Mapping[str, Group], name: str, units: Tensor) -> Group:
    group = groups.get(name)
    if group is None:
        raise MaskMismatch(f"there is no group {name!r}")
    if units.dtype != torch.bool or tuple(units.shape) != (group.units,):
        raise MaskMismatch(
            f"{name} has {group.units} units: expected bool [{group.units}], "
            f"found {units.dtype} {list(units.shape)}"
        )
    if not group.is_removable and not bool(units.all()):
        raise MaskMismatch(f"nothing of {name} can be removed: it {group.why_not}")
    # Other blocks of the list may be no units, since they have to stay.
    if not bool(units.any()) and group.kind != "block":
        raise MaskMismatch(f"one unit of {name} has to stay at least")
    return group
