"""Whether a model can do without all that is to go, at other sizes and in training too; what cannot go."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from worker.pruning.buffers import buffers_kept
from worker.pruning.errors import MaskMismatch
from worker.pruning.modes import in_mode
from worker.pruning.removal.check import (
    FAILURES,
    Run,
    blame_machine,
    compare,
    describe_failure,
    evaluating,
    find_tolerance,
)
from worker.pruning.removal.groups import Group
from worker.pruning.removal.search import Probe
from worker.pruning.removal.surgery import Removal, masked, plan_removal, removed
from worker.pruning.removal.trials import Trials

_NAMED = 8


@dataclass(frozen=True)
class Found:
    """What a search for a size ended with: the units that stay, bool [units] by group, and what was tried.

    `failure` is what the model raised where it could not even be measured with these units.
    """

    kept: Mapping[str, Tensor]
    probes: tuple[Probe, ...] = ()
    failure: Exception | None = None


def settle(
    model: nn.Module,
    groups: Sequence[Group],
    search: Callable[[Sequence[Group]], Found],
    trials: Trials,
) -> tuple[Removal, tuple[Probe, ...], tuple[Group, ...]]:
    """Search among groups until the model can do without what is found; return that, and the groups.

    Groups at fault are refused on the way, with the reason, and stay whole. Raises MaskMismatch where each
    can lose by itself what it is to lose, and what the search raises.
    """
    while True:
        found = search(groups)
        removal = plan_removal(model, groups, found.kept)
        fault = find_fault(model, removal, trials)
        if fault is None and found.failure is None:
            return removal, found.probes, tuple(groups)
        culprits = _find_culprits(model, groups, found.kept, trials) if not removal.depths else {}
        if not culprits and fault is None and found.failure is not None:
            raise found.failure  # the measure's own
        if not culprits:
            raise MaskMismatch(_describe_together(found.kept, removal, str(fault)))
        groups = [replace(group, why_not=culprits.get(group.name, group.why_not)) for group in groups]


def find_fault(model: nn.Module, removal: Removal, trials: Trials) -> str | None:
    """Return why a model cannot do without what a removal takes; None where it can.

    Masked and removed have to agree, on other shapes where the masked model takes them, and the removed one
    has to train where the masked one does. Neither statistics nor gradients nor random numbers are changed.
    """
    if not (removal.kept or removal.counts or removal.depths):
        return None
    fault = _find_difference(model, removal, trials.run)
    for run in trials.others:
        if fault is None and _is_taken(model, removal, run):
            fault = _find_difference(model, removal, run)
    return fault or _find_fault_in_training(model, removal, trials.run)


def _find_culprits(
    model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Tensor], trials: Trials
) -> dict[str, str]:
    """Return the groups that cannot be cut down to what is kept, bool [units], by themselves, and why not."""
    culprits = {}
    for name, units in kept.items():
        fault = find_fault(model, plan_removal(model, groups, {name: units}), trials)
        if fault is not None:
            culprits[name] = f"cannot lose {int((~units).sum())} of {len(units)} units: {fault}"
    return culprits


def _describe_together(kept: Mapping[str, Tensor], removal: Removal, fault: str) -> str:
    blocks = [f"{depth.name}.{number}" for depth in removal.depths for number in depth.gone]
    names = blocks or [name for name, units in kept.items() if not bool(units.all())]
    listed = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return f"each of {listed} may go by itself, not all of them together: {fault}; exclude some of them"


def _find_difference(model: nn.Module, removal: Removal, run: Run) -> str | None:
    try:
        difference = compare(model, removal, run)
    except FAILURES as error:
        return describe_failure(error)
    return None if difference <= find_tolerance(model) else f"outputs differ by {difference:.1e}"


def _is_taken(model: nn.Module, removal: Removal, run: Run) -> bool:
    """Tell whether the masked model takes an input of another shape and makes numbers of it."""
    with evaluating(model), masked(model, removal):
        try:
            return all(bool(output.isfinite().all()) for output in _list_outputs(run(model)))
        except FAILURES as error:
            blame_machine(error)
            return False


def _find_fault_in_training(model: nn.Module, removal: Removal, run: Run) -> str | None:
    devices = {one.device for one in model.parameters() if one.device.type == "cuda"}
    with torch.inference_mode(False), buffers_kept(model), torch.random.fork_rng(list(devices)):
        try:
            with masked(model, removal):
                before = _train_once(model, run, ())
        except FAILURES as error:  # it does not train as it is
            blame_machine(error)
            return None
        try:
            with removed(model, removal):
                after = _train_once(model, run, removal.tensors)
        except FAILURES as error:
            return f"in training, {describe_failure(error)}"
    return None if before == after else f"in training, the outputs had the shapes {before}, now {after}"


def _train_once(model: nn.Module, run: Run, tensors: Sequence[str]) -> list[tuple[int, ...]]:
    """Run forward, and backward to the named tensors; return the shapes of the outputs."""
    with in_mode(model, training=True), _fresh_parameters(model), torch.enable_grad():
        wanted = [one for name, one in model.named_parameters() if name in tensors and one.requires_grad]
        outputs = _list_outputs(run(model))
        losses = [output.float().square().mean() for output in outputs if output.requires_grad]
        if wanted and losses:
            torch.autograd.grad(torch.stack(losses).sum(), wanted, allow_unused=True)
    return [tuple(output.shape) for output in outputs]


@contextmanager
def _fresh_parameters(model: nn.Module) -> Iterator[None]:
    """Put other parameters of the same values in place, for a while.

    Where somebody still holds a loss, its graph expects gradients of the shapes that there were.
    """
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]
    fresh = {id(one): nn.Parameter(one.data, requires_grad=one.requires_grad) for one in model.parameters()}
    try:
        for module, name, parameter in places:
            module._parameters[name] = fresh[id(parameter)]
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter


def _list_outputs(outputs: object) -> list[Tensor]:
    return [one for one in tree_leaves(outputs) if isinstance(one, Tensor) and one.is_floating_point()]
