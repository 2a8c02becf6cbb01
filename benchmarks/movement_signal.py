"""`python -m benchmarks.movement_signal`: what movement scores see in a converged model, and in another.

MiniLM-L6 is trained without pruning for some steps, once from its weights fine-tuned on SST-2 and once from
those that it was pretrained to, with a new classifier. Then some of every encoder matrix goes at once, by the
movement scores of those steps, by magnitude, or by chance. Printed is the accuracy on dev, and which share of
the largest tenth of the weights the movement scores would have pruned: by chance it is the sparsity itself.
"""

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.minilm import load_pretrained, minilm_task
from benchmarks.task import Batch, Task
from worker.pruning import MaskSet, Pruner, prune
from worker.pruning.statistics.calibration import logits_of

_STEPS, _BATCH = 300, 32
_LEARNING_RATE = 5e-5
_SPARSITIES = (0.1, 0.3, 0.5)


def main(arguments: list[str] | None = None) -> int:
    """Print one row for a start and a sparsity; returns 2 when the data is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="of the scores")
    optimizer = parser.parse_args(arguments).optimizer
    torch.set_num_threads(1)
    try:
        task = minilm_task(find_data_folder(), samples=_STEPS * _BATCH)
    except NoBenchmarkData as error:
        print(f"movement_signal: {error}", file=sys.stderr)
        return 2
    starts = {"fine-tuned on SST-2": task.load(), "pretrained, new classifier": load_pretrained(seed=0)}
    table = Table(title=f"{_STEPS} steps of {_BATCH} phrases, then pruned at once; accuracy on dev")
    for head in ("start", "trained", "sparsity", "movement", "magnitude", "random", "of the largest tenth"):
        table.add_column(head, justify="left" if head == "start" else "right")
    for name, model in starts.items():
        pruner = _train(task, model, optimizer)
        dense = task.accuracy(model)
        for sparsity in _SPARSITIES:
            masks, accuracy = _prune_by_movement(task, model, pruner, _recipe(task, sparsity, optimizer))
            table.add_row(
                name,
                f"{dense:.2%}",
                f"{sparsity:.0%}",
                f"{accuracy:.2%}",
                f"{_prune_by(task, model, 'magnitude', sparsity):.2%}",
                f"{_prune_by(task, model, 'random', sparsity):.2%}",
                f"{_share_of_largest(model, masks):.1%}",
            )
    Console(width=120).print(table)
    return 0


def _recipe(task: Task, sparsity: float, optimizer: str) -> dict[str, Any]:  # Any: JSON
    return _choose(task, {"name": "movement", "params": {"optimizer": optimizer}}, sparsity)


def _choose(task: Task, criterion: dict[str, Any], sparsity: float) -> dict[str, Any]:  # Any: JSON
    return {
        "criterion": criterion,
        "allocation": {"name": "uniform"},
        "target": {"metric": "sparsity", "value": sparsity},
        "layers": [{"match": glob, "set": {"exclude": True}} for glob in task.excluded],
    }


def _train(task: Task, model: nn.Module, scores_by: str) -> Pruner:
    """Train without pruning; the pruner that comes back has learned the scores."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    pruner = Pruner(model, _recipe(task, 0.5, scores_by))
    pruner.attach(optimizer)
    for inputs, targets in _shuffle(task.calibration):
        assert isinstance(inputs, Mapping)
        torch.autograd.backward(functional.cross_entropy(logits_of(model(**inputs)), targets))
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
    pruner.detach()
    model.eval()
    return pruner


def _shuffle(batches: Sequence[Batch]) -> list[Batch]:
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))
    return [batches[i] for i in order.tolist()]


def _prune_by_movement(
    task: Task,
    model: nn.Module,
    learned: Pruner,
    recipe: dict[str, Any],  # Any: JSON
) -> tuple[MaskSet, float]:
    state = learned.state_dict()
    pruned = copy.deepcopy(model)
    pruner = Pruner(pruned, recipe)
    pruner.load_state_dict(state | {"recipe": pruner.state_dict()["recipe"]})
    return pruner.update(), task.accuracy(pruned)


def _prune_by(task: Task, model: nn.Module, criterion: str, sparsity: float) -> float:
    pruned = copy.deepcopy(model)
    prune(pruned, _choose(task, {"name": criterion}, sparsity))
    return task.accuracy(pruned)


def _share_of_largest(model: nn.Module, masks: MaskSet) -> float:
    """Return which share of the largest tenth of each matrix is pruned, over all matrices."""
    weights = dict(model.named_parameters())
    gone = total = 0
    for name, mask in masks.items():
        magnitudes = weights[name].detach().abs().reshape(-1)
        largest = magnitudes.topk(len(magnitudes) // 10).indices
        gone += int((~mask.reshape(-1)[largest]).sum())
        total += len(largest)
    return gone / total


if __name__ == "__main__":
    sys.exit(main())
