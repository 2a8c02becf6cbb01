"""Whether a model can do without all that is to go at once; what cannot go."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from worker.pruning.errors import MaskMismatch
from worker.pruning.removal.check import (
    FAILURES,
    Run,
    compare,
    describe_failure,
    find_tolerance,
)
from worker.pruning.removal.groups import Group
from worker.pruning.removal.search import Probe
from worker.pruning.removal.surgery import Removal, plan_removal

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
    run: Run,
) -> tuple[Removal, tuple[Probe, ...], tuple[Group, ...]]:
    """Search among groups until the model can do without what is found; return that, and the groups.

    Groups at fault are refused on the way, with the reason, and stay whole. Raises MaskMismatch where each
    can lose by itself what it is to lose, and what the search raises.
    """
    while True:
        found = search(groups)
        removal = plan_removal(model, groups, found.kept)
        fault = find_fault(model, removal, run)
        if fault is None and found.failure is None:
            return removal, found.probes, tuple(groups)
        culprits = _find_culprits(model, groups, found.kept, run) if not removal.depths else {}
        if not culprits and fault is None and found.failure is not None:
            raise found.failure  # the measure's own
        if not culprits:
            raise MaskMismatch(_describe_together(found.kept, removal, str(fault)))
        groups = [replace(group, why_not=culprits.get(group.name, group.why_not)) for group in groups]


def find_fault(model: nn.Module, removal: Removal, run: Run) -> str | None:
    """Return why a model cannot do without what a removal takes; None where masked and removed agree."""
    if not (removal.kept or removal.counts or removal.depths):
        return None
    return _find_difference(model, removal, run)


def _find_culprits(
    model: nn.Module, groups: Sequence[Group], kept: Mapping[str, Tensor], run: Run
) -> dict[str, str]:
    """Return the groups that cannot be cut down to what is kept, bool [units], by themselves, and why not."""
    culprits = {}
    for name, units in kept.items():
        fault = find_fault(model, plan_removal(model, groups, {name: units}), run)
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
