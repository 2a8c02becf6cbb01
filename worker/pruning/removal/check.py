"""Check that a removal computes what masking computes, before it counts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from worker.pruning.modes import in_mode
from worker.pruning.removal.depth import Depth
from worker.pruning.removal.groups import Group
from worker.pruning.removal.surgery import Removal, masked, plan_removal, removed

Run = Callable[[nn.Module], object]
TOLERANCE = 1e-5
# What a model's own code may raise at a width that it does not take.
FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)
_TINY = 1e-30
# Sums in another order are rounded otherwise: in bfloat16, with an eps of 0.0078, GPT-2 differed by 0.0049.
_ROUNDINGS = 4
# What torch rounds float32 to in convolutions on CUDA, unless it is told otherwise.
_TF32_EPS = 2.0**-10
# The CPU's allocator has no error class of its own.
_NO_MEMORY = "can't allocate memory"


def compare(model: nn.Module, removal: Removal, run: Run) -> float:
    """Return the largest difference between the masked and the removed model's outputs.

    It is relative to the largest output, of the model as it is or masked. `run` runs the model on one input.
    Raises what the removed model raises when it cannot compute.
    """
    with evaluating(model):
        return _compare(model, removal, run, _outputs(run(model)))


def prove(model: nn.Module, groups: Sequence[Group], run: Run) -> tuple[Group, ...]:
    """Cut units out of each group and run: refuse those where that fails or computes something else.

    The first unit goes, with half of those between it and the last: that shows places which the code counts
    from the front. Then the last one goes, of all groups at once, and of each by itself where that fails:
    that shows places counted from the end, and sizes that have to be even.
    """
    with evaluating(model):
        dense = _outputs(run(model))
        halved = tuple(_prove(model, group, run, dense, _without_first(group.units)) for group in groups)
        lasts = {group.name: _without_last(group.units) for group in halved if group.is_removable}
        if _find_fault(model, lambda: plan_removal(model, halved, lasts), run, dense, without="") is None:
            return halved
        return tuple(_prove(model, group, run, dense, _without_last(group.units)) for group in halved)


def find_faults(model: nn.Module, depths: Sequence[Depth], run: Run) -> tuple[str | None, ...]:
    """Leave out the blocks of each record by itself; return why that fails or computes something else."""
    with evaluating(model):
        dense = _outputs(run(model))
        return tuple(
            _find_fault(model, partial(Removal, {}, {}, (depth,)), run, dense, without="the block")
            for depth in depths
        )


def find_tolerance(model: nn.Module) -> float:
    """Return by how much outputs may differ that were rounded to the coarsest numbers of the model."""
    kinds = {(one.dtype, one.device.type) for one in model.parameters() if one.is_floating_point()}
    return max([TOLERANCE, *(_ROUNDINGS * _find_eps(*kind) for kind in kinds)])


def describe_failure(error: Exception) -> str:
    """Return the first line of what a model raised; raise it again where it is the machine that failed."""
    blame_machine(error)
    said = str(error).strip().partition("\n")[0][:200]
    return said if isinstance(error, RuntimeError) else f"{type(error).__name__}: {said}"


def blame_machine(error: Exception) -> None:
    """Raise an error again where the machine is at fault, out of memory, and not the model."""
    if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY in str(error):
        raise error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while, without gradients."""
    with in_mode(model), torch.no_grad():
        yield


def _compare(model: nn.Module, removal: Removal, run: Run, dense: Sequence[Tensor]) -> float:
    with masked(model, removal):
        expected = _outputs(run(model))
    with removed(model, removal):
        found = _outputs(run(model))
    if not expected:
        raise RuntimeError("the model puts out no floating-point tensor to compare")
    shapes = [[tuple(one.shape) for one in outputs] for outputs in (expected, found)]
    if shapes[0] != shapes[1]:
        raise RuntimeError(f"the outputs had the shapes {shapes[0]}, now they have {shapes[1]}")
    # Of several outputs one may be NaN, which max() would pass over.
    return float(torch.tensor(list(map(_difference, expected, found, dense))).max())


def _prove(model: nn.Module, group: Group, run: Run, dense: Sequence[Tensor], kept: Tensor) -> Group:
    """Refuse a group that cannot be cut down to the units that are kept, bool [units]."""
    if not group.is_removable:
        return group
    if group.units == 1:
        return replace(group, why_not="is the only one of its kind there")
    gone = group.units - int(kept.sum())
    without = "one unit" if gone == 1 else f"{gone} of {group.units} units"
    plan = partial(plan_removal, model, [group], {group.name: kept})
    fault = _find_fault(model, plan, run, dense, without=without)
    return replace(group, why_not=fault) if fault else group


def _without_first(units: int) -> Tensor:
    """Keep the last of the units and about half of the others, the same ones each time; bool [units]."""
    kept = torch.ones(units, dtype=torch.bool)
    between = torch.randperm(max(units - 2, 0), generator=torch.Generator().manual_seed(units)) + 1
    kept[0] = False
    kept[between[: len(between) // 2]] = False
    return kept


def _without_last(units: int) -> Tensor:
    return torch.arange(units) < units - 1


def _find_fault(
    model: nn.Module, plan: Callable[[], Removal], run: Run, dense: Sequence[Tensor], *, without: str
) -> str | None:
    """Return why a model fails or computes something else with a removal; None where it does not."""
    try:
        difference = _compare(model, plan(), run, dense)
    except FAILURES as error:
        return f"is a constant of the model's code: without {without}, {describe_failure(error)}"
    if difference <= find_tolerance(model):
        return None
    return f"does not stand alone: without {without} outputs differ by {difference:.1e}"


def _find_eps(dtype: torch.dtype, device: str) -> float:
    eps = torch.finfo(dtype).eps
    return max(eps, _TF32_EPS) if device == "cuda" and dtype == torch.float32 else eps


def _outputs(outputs: object) -> list[Tensor]:
    return [
        leaf.detach().float().clone()
        for leaf in tree_leaves(outputs)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]


def _difference(expected: Tensor, found: Tensor, dense: Tensor) -> float:
    if not expected.numel():
        return 0.0
    scale = max(float(expected.abs().max()), float(dense.abs().max()), _TINY)
    return float((expected - found).abs().max()) / scale
