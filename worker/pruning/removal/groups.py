"""Groups: the channels, neurons and heads that can be cut out of a model, each with all that goes along."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import mha

from worker.pruning.modes import in_mode
from worker.pruning.removal.depth import BlockList
from worker.pruning.removal.labels import Ids
from worker.pruning.removal.rules.registry import rules
from worker.pruning.removal.tracer import Axis, Knob, Tracer

Kind = Literal["channel", "neuron", "head", "query", "width", "block"]
_CONVOLUTION_DIMS = 3


@dataclass(frozen=True)
class Cut:
    """Where the units of a group lie along one axis: `index` is int64 [units, positions of a unit]."""

    where: Axis | Knob | BlockList
    index: Tensor


@dataclass(frozen=True)
class Group:
    """Units that can be cut one by one, each along all `cuts` at once; `why_not` when none can.

    It is named after the tensor that makes its channels.
    """

    name: str
    kind: Kind
    cuts: tuple[Cut, ...]
    why_not: str | None = None

    @property
    def owner(self) -> str:
        """The tensor that makes its channels; groups that share it are told apart by their names."""
        return self.name.partition("[")[0]

    @property
    def units(self) -> int:
        return len(self.cuts[0].index)

    @property
    def is_removable(self) -> bool:
        return self.why_not is None


@torch.no_grad()
def find_groups(model: nn.Module, *args: object, **kwargs: object) -> tuple[Group, ...]:
    """Trace one forward pass of a model over inputs of at least two samples, and return its groups.

    They come in the order in which the model computes them. Raises Untraceable where the pass depends on
    the values in it. The model is in evaluation mode meanwhile.
    """
    had_fast_path = mha.get_fastpath_enabled()
    tracer = Tracer(model, rules())
    tracer.begin((args, kwargs))
    mha.set_fastpath_enabled(False)
    try:
        with in_mode(model), tracer.following():
            outputs = model(*args, **kwargs)
    finally:
        mha.set_fastpath_enabled(had_fast_path)
    tracer.finish(outputs)
    return tuple(_make_groups(tracer, {name: tensor.ndim for name, tensor in model.named_parameters()}))


def _make_groups(tracer: Tracer, dims: Mapping[str, int]) -> Iterator[Group]:
    """Sort classes of labels by the axes that they lie on: those on the same axes are units of one group."""
    kept, heads = tracer.labels.find_kept(), set(tracer.labels.find_united_along().tolist())
    classes: dict[int, list[tuple[Axis | Knob, Ids]]] = defaultdict(list)
    for where, ids in tracer.axes.items():
        for root, positions in _split(tracer.labels.find(ids)):
            classes[root].append((where, positions))
    grouped: dict[tuple[object, str | None], list[int]] = defaultdict(list)
    for root, places in classes.items():
        signature = tuple((where, len(positions)) for where, positions in places)
        grouped[signature, kept.get(root)].append(root)
    ranks = {where: rank for rank, where in enumerate(tracer.owners)}
    found: list[tuple[int, int, Axis, tuple[Cut, ...], str | None, bool]] = []
    for (_, why_not), roots in grouped.items():
        cuts = tuple(
            Cut(where, torch.from_numpy(np.stack([classes[root][place][1] for root in roots])))
            for place, (where, _) in enumerate(classes[roots[0]])
        )
        owners = [cut.where for cut in cuts if isinstance(cut.where, Axis) and cut.where in ranks]
        if owners:
            owner = min(owners, key=ranks.__getitem__)
            found.append((ranks[owner], int(cuts[0].index.min()), owner, cuts, why_not, roots[0] in heads))
    names: set[str] = set()
    for _, _, owner, cuts, why_not, is_head in sorted(found, key=lambda one: one[:2]):
        name = _name(owner, cuts, names)
        names.add(name)
        yield Group(name, _kind(owner, dims, is_head=is_head), cuts, why_not)


def _split(roots: Ids) -> Iterator[tuple[int, Ids]]:
    """Yield each root and its positions, by sorting once: a vocabulary has as many roots as words."""
    order = np.argsort(roots, kind="stable")
    found, starts = np.unique(roots[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, starts[1:]), strict=True)


def _name(owner: Axis, cuts: tuple[Cut, ...], taken: set[str]) -> str:
    """Name a group after its owner, and by the first position along it where several have the same owner."""
    if owner.tensor not in taken:
        return owner.tensor
    first = min(int(cut.index.min()) for cut in cuts if cut.where == owner)
    return f"{owner.tensor}[{owner.axis}, {first}]"


def _kind(owner: Axis, dims: Mapping[str, int], *, is_head: bool) -> Kind:
    if dims[owner.tensor] >= _CONVOLUTION_DIMS:
        return "channel"
    return "head" if is_head else "neuron"
