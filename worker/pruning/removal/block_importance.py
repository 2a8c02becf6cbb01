"""How important is a whole block: by its weights, by what it does to hidden states, by the loss without."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from worker.pruning.errors import NeedsTraining, UnsuitableScores
from worker.pruning.protocols import Criterion, LearnsScores
from worker.pruning.ranked import check_finite
from worker.pruning.recipe import Choice
from worker.pruning.registry import build, entries
from worker.pruning.removal.blocks import layers_of, list_names
from worker.pruning.removal.depth import Depth, first_state, get_stack, left_out
from worker.pruning.removal.groups import Group
from worker.pruning.removal.importance import Aggregation
from worker.pruning.statistics import gather
from worker.pruning.statistics.calibration import (
    Batch,
    Calibration,
    Loss,
    default_loss,
    read_batches,
    run,
    undisturbed,
)

_IMAGE_DIMS = 4


@runtime_checkable
class ScoresStates(Protocol):
    """A criterion of whole blocks, by the hidden states before and after them."""

    def score_states(self, before: Tensor, after: Tensor) -> Tensor:
        """Return float32 scores [...] of hidden states [..., width]; higher is kept, their mean counts."""
        ...


@runtime_checkable
class ScoresAbsence(Protocol):
    """A criterion of whole blocks, by the mean loss over the calibration samples with and without each."""

    def score_absence(self, whole: float, without: float) -> float:
        """Return the score of a block; higher is kept."""
        ...


BlockCriterion = ScoresStates | ScoresAbsence


def build_block_criterion(choice: Choice) -> Criterion | BlockCriterion:
    """Make the criterion that a structure of whole blocks names: one of blocks, or one of weights."""
    if choice.name in entries("block_criterion"):
        return cast(BlockCriterion, build("block_criterion", choice.name, choice.params))
    return cast(Criterion, build("criterion", choice.name, choice.params))


@torch.no_grad()
def score_blocks(
    model: nn.Module,
    groups: Sequence[Group],
    criterion: Criterion | BlockCriterion,
    calibration: Calibration,
    *,
    aggregation: Aggregation = "mean",
) -> dict[str, Tensor]:
    """Return the importance of each block, float32 [units] on the CPU, by the name of its group.

    A criterion of weights is summed over the block's weights, or averaged within each tensor and then over
    the tensors. Raises NeedsTraining for criteria that learn, UnsuitableScores where a block has no weight
    that can be scored, MissingData for a criterion of blocks without data.
    """
    if isinstance(criterion, ScoresStates):
        found = _score_states(model, groups, criterion, calibration)
    elif isinstance(criterion, ScoresAbsence):
        found = _score_losses(model, groups, criterion, calibration)
    elif isinstance(criterion, LearnsScores):
        raise NeedsTraining("scores that training learns come too late: what is cut out cannot come back")
    else:
        found = _score_weights(model, groups, criterion, calibration, aggregation)
    scores = {group.name: torch.stack([found[name] for name in list_names(group)]) for group in groups}
    for name, values in scores.items():
        check_finite(values, name)
    return scores


def _score_weights(
    model: nn.Module,
    groups: Sequence[Group],
    criterion: Criterion,
    calibration: Calibration,
    aggregation: Aggregation,
) -> dict[str, Tensor]:
    blocks = {name: layers for group in groups for name, layers in layers_of(model, group).items()}
    for name, layers in blocks.items():
        if not layers:
            raise UnsuitableScores(f"no weight of {name} can be scored: exclude it")
    names = {layer.name for layers in blocks.values() for layer in layers}
    statistics = gather(model, names, criterion=criterion, calibration=calibration)
    found = {}
    for name, layers in blocks.items():
        scored = [criterion.score(layer.weight.detach(), statistics[layer.name]).float() for layer in layers]
        parts = torch.stack([one.sum() if aggregation == "sum" else one.mean() for one in scored]).cpu()
        found[name] = parts.sum() if aggregation == "sum" else parts.mean()
    return found


def _score_states(
    model: nn.Module, groups: Sequence[Group], criterion: ScoresStates, calibration: Calibration
) -> dict[str, Tensor]:
    """Average a criterion over all positions of all batches but those of padding."""
    device = next(model.parameters()).device
    batches = read_batches(calibration, device=device, reason=type(criterion).__name__)
    watch = _Watch(criterion)
    with undisturbed(model), ExitStack() as hooks:
        for name in (name for group in groups for name in list_names(group)):
            note = partial(watch.note, name)
            hooks.callback(model.get_submodule(name).register_forward_hook(note, with_kwargs=True).remove)
        for batch in batches:
            watch.batch = batch
            run(model, batch)
    return {name: torch.tensor(watch.sums[name] / max(watch.counts[name], 1)) for name in watch.sums}


def _score_losses(
    model: nn.Module, groups: Sequence[Group], criterion: ScoresAbsence, calibration: Calibration
) -> dict[str, Tensor]:
    """Measure the mean loss over all samples with all blocks, and without each."""
    device = next(model.parameters()).device
    batches = read_batches(calibration, device=device, reason=type(criterion).__name__)
    found: dict[str, Tensor] = {}
    with undisturbed(model):
        whole = _measure_loss(model, batches, calibration.loss or default_loss)
        for name in (name for group in groups for name in list_names(group)):
            stack, _, number = name.rpartition(".")
            blocks = len(get_stack(model, stack))
            kept = tuple(other for other in range(blocks) if other != int(number))
            with left_out(model, [Depth(stack, kept, blocks)]):
                without = _measure_loss(model, batches, calibration.loss or default_loss)
            found[name] = torch.tensor(criterion.score_absence(whole, without))
    return found


def _measure_loss(model: nn.Module, batches: Sequence[Batch], loss: Loss) -> float:
    total = sum(float(loss(run(model, batch), batch.targets)) * batch.size for batch in batches)
    return total / sum(batch.size for batch in batches)


class _Watch:
    """Adds up, by the name of a block, the scores of the hidden states that pass through it."""

    def __init__(self, criterion: ScoresStates) -> None:
        self.batch: Batch | None = None
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.counts: defaultdict[str, int] = defaultdict(int)
        self._criterion = criterion

    def note(self, name: str, block: nn.Module, args: object, kwargs: object, outputs: object) -> None:
        before, after = first_state((args, kwargs)), first_state(outputs)
        # A block without hidden states has to stay, and is not scored.
        assert before is not None
        assert after is not None
        scores = self._criterion.score_states(_width_last(before), _width_last(after))
        mask = self.batch.token_mask if self.batch is not None else None
        if mask is not None and mask.shape == scores.shape:
            scores = scores[mask]
        self.sums[name] += float(scores.double().sum())
        self.counts[name] += scores.numel()


def _width_last(states: Tensor) -> Tensor:
    """Put the channels of images, [b, c, h, w], where texts and patches have theirs: [b, h, w, c]."""
    return states.movedim(1, -1) if states.ndim == _IMAGE_DIMS else states
