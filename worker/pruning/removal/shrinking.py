"""Cut a model down to a target: find what can go, rank it, search how much of it has to, and remove that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from worker.pruning.errors import MissingData, NothingToPrune, UnsupportedTarget
from worker.pruning.layers import find_layers
from worker.pruning.macs import count_macs
from worker.pruning.protocols import Criterion
from worker.pruning.registry import build
from worker.pruning.removal.block_importance import build_block_criterion, score_blocks
from worker.pruning.removal.blocks import Reasons, find_block_groups, limit_blocks, list_excluded, list_kept
from worker.pruning.removal.bounds import keep_names, limit_groups, mark_groups
from worker.pruning.removal.check import FAILURES, blame_machine, prove
from worker.pruning.removal.file_size import count_file_bytes
from worker.pruning.removal.groups import Group, find_groups
from worker.pruning.removal.importance import score_units
from worker.pruning.removal.queries import find_query_groups
from worker.pruning.removal.ranking import Order, order_units
from worker.pruning.removal.recipe import Structure, read_structure
from worker.pruning.removal.search import Goal, NotMeasured, Probe, find_fewest, find_most
from worker.pruning.removal.soundness import Found, settle
from worker.pruning.removal.surgery import Removal, compose, plan_removal, remove, removed
from worker.pruning.removal.trials import make_call, make_trials
from worker.pruning.statistics.calibration import Batch, Calibration, Inputs, Loss

Measure = Callable[[nn.Module], float]
# A round's: each probe of accuracy runs over a whole split, or trains.
ACCURACY_PROBES = 12


@dataclass(frozen=True)
class Shrunk:
    """What was cut out of a model, in terms of what it was, and the sizes that were tried on the way."""

    removal: Removal
    groups: tuple[Group, ...]
    probes: tuple[tuple[Probe, ...], ...]
    before: float
    after: float


def shrink(
    model: nn.Module,
    structure: Structure | Mapping[str, Any],  # Any: JSON, checked when read
    data: Sequence[tuple[Inputs, Any]],  # Any: targets are whatever the loss takes
    loss: Loss | None = None,
    *,
    seed: int = 0,
    measures: Mapping[str, Measure] | None = None,
) -> Shrunk:
    """Cut units out of a model, in place, until its target is met; the outputs' shapes stay.

    `data` are batches (inputs, targets), the first of at least two samples: it is traced, and criteria that
    want data read all. `measures` say how to measure a metric of the model that they are given, in the
    target's unit: latency_ms and accuracy_drop are only had that way, macs are counted of weights otherwise,
    and size_bytes of the safetensors file that holds every tensor once.
    Raises Untraceable, NothingToPrune, UnreachableTarget with the nearest value, and what the criterion
    raises; after the first of several rounds the model may then be smaller already.
    """
    structure = read_structure(structure)
    if not data:
        raise MissingData("removal needs a batch to trace the model with: give batches of (inputs, targets)")
    metric, limit = structure.target.metric, structure.target.value
    measure = _find_measure(metric, measures or {}, model, data)
    before = size = measure(model)
    groups = find_removable(model, structure, data[0][0])
    trials, calibration = make_trials(data[0][0]), Calibration(data, loss, seed=seed)
    total, probes = Removal({}, {}), []
    for number in range(1, structure.rounds + 1):
        due = before + (limit - before) * number / structure.rounds
        kept = list_kept(groups, total)
        if number == 1:
            found = groups
        else:
            found = keep_names(find_removable(model, structure, data[0][0], kept), groups, total)
        units = {group.name: group.units for group in groups}
        search = _Search(model, structure, units, calibration, measure, Goal(metric, limit, due))
        removal, tried, found = settle(model, found, search, trials)
        groups = found if number == 1 else groups
        remove(model, removal)
        total, size = compose(total, removal), measure(model)
        probes.append(tried)
    return Shrunk(total, groups, tuple(probes), before, size)


def find_removable(
    model: nn.Module, structure: Structure, inputs: Inputs, kept: Reasons | None = None
) -> tuple[Group, ...]:
    """Return all groups of a model, proven, with the reason why one is not removed by this structure.

    `kept` says of whole blocks why they had to stay in an earlier round: then rows are not read again.
    """
    if structure.cuts_blocks:
        kept = list_excluded(model, structure.layers) if kept is None else kept
        return find_block_groups(model, make_trials(inputs).run, kept)
    args, kwargs = make_call(inputs)
    groups = (*find_groups(model, *args, **kwargs), *find_query_groups(model))
    return prove(model, mark_groups(model, groups, structure), make_trials(inputs).run)


@dataclass(frozen=True)
class _Search:
    """Looks, in one round, for how much has to go: `units` are those that groups had at first."""

    model: nn.Module
    structure: Structure
    units: Mapping[str, int]
    calibration: Calibration
    measure: Measure
    goal: Goal

    def __call__(self, groups: Sequence[Group]) -> Found:
        order = _order(self.model, groups, self.structure, self.units, self.calibration)
        low, high = order.forced, len(order.steps)
        try_out = partial(self._try_out, order)
        try:
            if self.goal.metric == "accuracy_drop":
                count, probes = find_most(low, high, try_out, self.goal, probes=ACCURACY_PROBES)
            else:
                count, probes = find_fewest(low, high, try_out, self.goal)
        except NotMeasured as failed:
            return Found(order.keep(failed.count), failure=failed.error)
        tried = tuple(Probe(order.count_units(probe.removed), probe.value) for probe in probes)
        return Found(order.keep(count), tried)

    def _try_out(self, order: Order, count: int) -> float:
        with removed(self.model, plan_removal(self.model, order.groups, order.keep(count))):
            try:
                return self.measure(self.model)
            except FAILURES as error:
                blame_machine(error)
                raise NotMeasured(count, error) from error


def _order(
    model: nn.Module,
    groups: Sequence[Group],
    structure: Structure,
    units: Mapping[str, int],
    calibration: Calibration,
) -> Order:
    if structure.cuts_blocks:
        return _order_blocks(model, groups, structure, units, calibration)
    free = [group for group in groups if group.is_removable]
    if not free:
        raise NothingToPrune(f"nothing of the model can be removed: {_tell(groups)}")
    criterion = cast(Criterion, build("criterion", structure.criterion.name, structure.criterion.params))
    scores = score_units(model, free, criterion, calibration, aggregation=structure.aggregation)
    limits = limit_groups(model, free, structure, units)
    return order_units(free, scores, limits, ranking=structure.ranking)


def _order_blocks(
    model: nn.Module,
    groups: Sequence[Group],
    structure: Structure,
    units: Mapping[str, int],
    calibration: Calibration,
) -> Order:
    free = [group for group in groups if group.is_removable]
    if not free and units.keys() <= {group.name for group in groups}:
        raise NothingToPrune(f"no block of the model can be left out: {_tell(groups)}")
    if not free:  # earlier rounds took all that could go
        return Order((), (), 0, ())
    criterion = build_block_criterion(structure.criterion)
    scores = score_blocks(model, free, criterion, calibration, aggregation=structure.aggregation)
    limits = limit_blocks(groups, units, structure.max_fraction)
    return order_units(free, scores, limits, ranking=structure.ranking)


def _tell(groups: Sequence[Group]) -> str:
    reasons = "; ".join(f"{group.name} {group.why_not}" for group in groups[:8])
    return reasons or "no list of blocks is declared for it or looks like one"


def _find_measure(
    metric: str, given: Mapping[str, Measure], model: nn.Module, data: Sequence[tuple[Inputs, Any]]
) -> Measure:
    if metric in given:
        return given[metric]
    if metric == "parameters":
        return lambda one: float(sum(parameter.numel() for parameter in one.parameters()))
    if metric == "size_bytes":
        return _count_bytes
    if metric == "macs":
        inputs, targets = data[0]
        sample = Batch(inputs, targets, _count_samples(inputs)).sample(0)
        return lambda one: float(sum(count_macs(one, find_layers(one), sample).values()))
    raise UnsupportedTarget(f"a target of {metric} has to be measured: give measures[{metric!r}]")


def _count_bytes(model: nn.Module) -> float:
    """Count the bytes of the model's file, in which tied weights are written once."""
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), (name, tensor))
    return float(count_file_bytes(dict(once.values())))


def _count_samples(inputs: Inputs) -> int:
    if isinstance(inputs, Tensor):
        return len(inputs)
    first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs[0]
    return len(first)
