"""A cut model's architecture as data: which sizes its modules have, so that its tensors fit into them."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from pydantic import JsonValue
from torch import nn

from app.core.errors import ArchitectureMismatch
from worker.models.inputs import compute_logits
from worker.models.registry import Network
from worker.numerics import is_out_of_memory
from worker.pruning.errors import MaskMismatch, NoMatch
from worker.pruning.removal.depth import Depth, dump_depth, get_stack, leave_out, load_depth
from worker.pruning.removal.surgery import resize
from worker.pruning.removal.tracer import Knob

CUT = "cut"
# Heads and neurons that were cut by nine tenths, and what was left of them once more.
_MOST_TIMES_LARGER = 100


def describe_cut(counts: Mapping[Knob, int], depths: Sequence[Depth] = ()) -> dict[str, JsonValue]:
    """Return what an architecture says of a cut model, besides the shapes that its tensors have."""
    padded: list[JsonValue] = [
        {"module": knob.module, "attribute": knob.attribute, "count": count}
        for knob, count in sorted(counts.items(), key=lambda item: (item[0].module, item[0].attribute))
    ]
    blocks: list[JsonValue] = [dump_depth(depth) for depth in sorted(depths, key=lambda one: one.name)]
    return {"padded": padded, **({"blocks": blocks} if blocks else {})}


def read_counts(cut: Any) -> dict[Knob, int]:  # Any: JSON that the service has checked
    """Return the counts of padded channels that an architecture says; none where it is not cut."""
    rows = cut.get("padded", ()) if cut is not None else ()
    return {Knob(row["module"], row["attribute"]): row["count"] for row in rows}


def read_depths(cut: Any) -> tuple[Depth, ...]:  # Any: JSON that the service has checked
    """Return which blocks an architecture says that stayed; none where all did."""
    return tuple(load_depth(row) for row in cut.get("blocks", ())) if cut is not None else ()


def is_cut(architecture: Mapping[str, JsonValue]) -> bool:
    """Tell whether an architecture is that of a cut model."""
    return architecture.get(CUT) is not None


def check_whole(whole: nn.Module, cut: JsonValue, shapes: Mapping[str, Iterable[int]]) -> None:
    """Refuse a cut of a network too large for its tensors: building it takes memory for the whole first.

    Raises ArchitectureMismatch.
    """
    if cut is None:
        return
    held = sum(map(prod, shapes.values()))
    asked = sum(parameter.numel() for parameter in whole.parameters())
    if asked > _MOST_TIMES_LARGER * held:
        raise ArchitectureMismatch(
            f"the cut is one of a whole network of {asked:,} numbers, and the files hold {held:,}; expected "
            f"one at most {_MOST_TIMES_LARGER} times as large"
        )


def fit_module(module: nn.Module, cut: JsonValue, shapes: Mapping[str, Iterable[int]]) -> None:
    """Give a module the shapes of a cut model's tensors, where its architecture says that it is one.

    Raises ArchitectureMismatch where they are no parts of the module's.
    """
    if cut is None:
        return
    try:
        resize(module, {name: tuple(shape) for name, shape in shapes.items()}, read_counts(cut))
    except MaskMismatch as error:
        raise ArchitectureMismatch(f"the tensors are no parts of the architecture: {error}") from error


def fit_depth(module: nn.Module, cut: JsonValue) -> None:
    """Leave out of a module the blocks that its architecture says are gone.

    Raises ArchitectureMismatch where it has no such blocks.
    """
    for depth in read_depths(cut):
        try:
            blocks = len(get_stack(module, depth.name))
        except NoMatch as error:
            raise ArchitectureMismatch(f"the architecture has other blocks: {error}") from error
        if blocks != depth.blocks:
            raise ArchitectureMismatch(
                f"the architecture has {blocks} blocks in {depth.name}, its cut is one of {depth.blocks}"
            )
        leave_out(module, [depth])


def load_parts(module: nn.Module, whole: Mapping[str, torch.Tensor]) -> None:
    """Fill a cut module with the first part of each tensor of a whole one's state."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        with torch.no_grad():
            tensor.copy_(whole[name][tuple(slice(size) for size in tensor.shape)])


def check_runs(network: Network, cut: JsonValue) -> None:
    """Run a cut network once; raises ArchitectureMismatch where its tensors do not fit each other."""
    if cut is None:
        return
    device = next(network.module.parameters()).device
    try:
        with torch.inference_mode():
            compute_logits(network.module, network.inputs.blank(1, device))
    except (RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            # The machine's fault, not the upload's.
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise ArchitectureMismatch(f"the cut tensors do not fit each other: {reason}") from error
