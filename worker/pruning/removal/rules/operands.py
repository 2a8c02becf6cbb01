"""What becomes of labels where operands meet: the laws that the rules share."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from worker.pruning.removal.labels import FIXED, Ids
from worker.pruning.removal.tracer import Tracer

UNREAD = "meets channels that no weight makes, such as the input's"


@dataclass(frozen=True)
class Operand:
    """Labels of one operand with as many axes as the result, and its real shape, 1 where it is spread."""

    ids: Ids | None
    shape: tuple[int, ...]

    @property
    def has_labels(self) -> bool:
        return self.ids is not None and bool((self.ids != FIXED).any())

    @property
    def extent(self) -> tuple[int, ...]:
        """The shape, 1 along the axes that the numbers do not depend on."""
        return self.shape if self.ids is None else self.ids.shape

    @property
    def varying(self) -> set[int]:
        return set() if self.ids is None else {axis for axis, size in enumerate(self.ids.shape) if size > 1}


def operand_of(tracer: Tracer, tensor: Tensor, ndim: int) -> Operand:
    ids, missing = tracer.ids(tensor), (1,) * (ndim - tensor.ndim)
    # A stride of 0 says that one value is spread along the axis.
    shape = tuple(size if step else 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    wide = None if ids is None else ids.reshape(missing + ids.shape)
    return Operand(wide, missing + shape)


def merge(tracer: Tracer, one: Operand, other: Operand) -> Operand:
    """Return what comes of two operands element by element."""
    shape = tuple(map(max, one.shape, other.shape))
    if not (one.has_labels and other.has_labels):
        labelled, constant = (one, other) if one.has_labels else (other, one)
        if labelled.has_labels:
            return Operand(meet_constant(tracer, labelled, constant.extent), shape)
        if labelled.ids is None or constant.ids is None:
            return Operand(None, shape)
    for spread, whole in ((one, other), (other, one)):
        own = whole.varying - spread.varying
        if own and all(spread.shape[axis] == 1 for axis in own):
            tracer.keep(spread.ids, f"is shared by several channels in {tracer.place}")
            return Operand(whole.ids, shape)
    if not (one.varying <= other.varying or other.varying <= one.varying):
        for operand in (one, other):
            tracer.keep(operand.ids, f"is combined along another axis in {tracer.place}")
        return Operand(None, shape)
    reason = f"meets channels that no weight makes in {tracer.place}"
    if one.ids is None or other.ids is None:
        return Operand(None, shape)
    return Operand(tracer.labels.unite(one.ids, other.ids, reason), shape)


def meet_constant(tracer: Tracer, operand: Operand, constant: tuple[int, ...]) -> Ids | None:
    """Return an operand's labels after it met numbers that cannot be cut along with it."""
    ids = operand.ids
    if ids is None:
        return None
    met = tuple(axis for axis in sorted(operand.varying) if constant[axis] > 1)
    return reduce_over(tracer, ids, met, why="meets a constant of its size", is_kept=True)


def reduce_over(
    tracer: Tracer, ids: Ids, dims: tuple[int, ...], *, why: str = "is averaged over", is_kept: bool = False
) -> Ids:
    """Return labels after something was done along axes, which therefore stay whole.

    What varies along other axes too, as the rows of heads do, is united along these; the rest has to stay.
    """
    for dim in dims:
        varying = [axis for axis, size in enumerate(ids.shape) if size > 1]
        if ids.shape[dim] == 1:
            continue
        if varying == [dim]:
            tracer.keep(ids, f"{why} in {tracer.place}")
            ids = ids if is_kept else np.take(ids, [0], axis=dim)
        else:
            ids = tracer.labels.unite_along(ids, dim)
    return ids


def unite_parts(tracer: Tracer, ids: Ids, axis: int, parts: int) -> Ids:
    """Unite what lies at the same place of equal parts of an axis, so that the parts stay of one size."""
    rows = np.moveaxis(ids, axis, -1)
    rows = rows.reshape(*rows.shape[:-1], parts, -1)  # [..., parts, places]
    reason = f"is split with channels that no weight makes in {tracer.place}"
    tracer.labels.unite(rows[..., :1, :], rows, reason)
    return ids


def read(tracer: Tracer, ids: Ids | None, ins: Ids) -> None:
    """Tie what a weight reads to the channels that it is given."""
    given = np.full(len(ins), FIXED) if ids is None else np.broadcast_to(ids, ins.shape)
    tracer.labels.unite(given, ins, f"reads channels that no weight makes in {tracer.place}")


def along_channels(tracer: Tracer, tensor: Tensor) -> Ids | None:
    """Return labels along axis 1 of [n, c, ...], int64 [c]; what varies elsewhere has to stay."""
    ids = tracer.ids(tensor)
    if ids is None:
        return None
    if any(size > 1 for axis, size in enumerate(ids.shape) if axis != 1):
        tracer.keep(ids, f"has channels along another axis in {tracer.place}")
        return None
    return np.broadcast_to(ids.reshape(-1), (tensor.shape[1],))


def add_bias(tracer: Tracer, result: Tensor, bias: Tensor, axis: int = -1) -> None:
    name, ids = tracer.name_of(bias), tracer.ids(result)
    if name is None or bias.ndim != 1:
        operands = (operand_of(tracer, tensor, result.ndim) for tensor in (result, bias))
        tracer.set_ids(result, merge(tracer, *operands).ids)
    elif ids is None or ids.shape[axis] != len(bias):
        tracer.keep_axis(name, 0, len(bias), f"is added to what has to stay in {tracer.place}")
    else:
        tracer.labels.unite(ids.reshape(-1), tracer.axis_ids(name, 0, len(bias)), "")


def or_fixed(ids: Ids | None, size: int) -> Ids:
    return np.full(size, FIXED) if ids is None else np.broadcast_to(ids.reshape(-1), (size,))
