"""`python -m benchmarks.movement_noise`: how much of what movement ranks weights by is chance.

MiniLM-L6 is fine-tuned on SST-2 from its pretrained weights without pruning, while movement learns two sets
of scores: one in the even steps, one in the odd ones. Were they about the weights, both would rank them
alike. Printed are the rank correlation of the two and which share of each one's lowest tenth, what would be
pruned first, is in the other's (by chance a tenth), as means over the encoder's matrices.
"""

import sys
from collections.abc import Mapping
from statistics import mean
from typing import Final

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.minilm import load_pretrained, minilm_task
from benchmarks.task import Task
from worker.pruning.criteria.movement import Movement
from worker.pruning.protocols import Memory
from worker.pruning.statistics.calibration import logits_of

_READ_AT: Final = (50, 100, 200, 400)
_BATCH: Final = 32
# As in `make bench-movement`, which warms up for 180 of its steps.
_LEARNING_RATE, _WARMUP_STEPS = 1e-4, 180
_OPTIMIZERS: Final = ("adam", "sgd")


class TwoHalves:
    """What movement learns of one matrix in even and in odd steps."""

    def __init__(self, weight: nn.Parameter, criterion: Movement) -> None:
        self._weight = weight
        self._criterion = criterion
        self._memories: tuple[Memory, Memory] = (criterion.start(weight), criterion.start(weight))

    def learn(self, step: int) -> None:
        """Take in the gradient of a step."""
        assert self._weight.grad is not None
        self._criterion.learn(
            self._memories[step % 2], self._weight.detach(), self._weight.grad, pressure=1.0
        )

    def compare(self) -> tuple[float, float]:
        """Return the rank correlation, and the share of the lowest tenth in common."""
        even, odd = (memory["scores"].reshape(-1) for memory in self._memories)
        ranks = torch.stack([even.argsort().argsort(), odd.argsort().argsort()]).double()
        is_low = ranks < ranks.shape[1] // 10
        return float(torch.corrcoef(ranks)[0, 1]), float((is_low[0] & is_low[1]).sum() / is_low[0].sum())


def main() -> int:
    """Print a row for an optimizer of the scores and a number of steps; returns 2 without the data."""
    torch.set_num_threads(1)
    try:
        task = minilm_task(find_data_folder(), samples=max(_READ_AT) * _BATCH)
    except NoBenchmarkData as error:
        print(f"movement_noise: {error}", file=sys.stderr)
        return 2
    table = Table(title="Movement's scores from even and from odd steps, compared")
    for head in ("steps", "scores by", "rank correlation", "of the lowest tenth in common"):
        table.add_column(head, justify="right")
    for step, optimizer, (correlation, share) in _run(task):
        table.add_row(f"{step}", optimizer, f"{correlation:+.2f}", f"{share:.1%}")
    Console(width=120).print(table)
    return 0


def _run(task: Task) -> list[tuple[int, str, tuple[float, float]]]:
    model = load_pretrained(seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.0, fused=True)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / _WARMUP_STEPS, total_iters=_WARMUP_STEPS)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".encoder." in name]
    halves = {
        name: [TwoHalves(weight, Movement(optimizer=name)) for weight in matrices] for name in _OPTIMIZERS
    }
    order = torch.randperm(len(task.calibration), generator=torch.Generator().manual_seed(0)).tolist()
    found = []
    for step, number in enumerate(order):
        inputs, targets = task.calibration[number]
        assert isinstance(inputs, Mapping)
        torch.autograd.backward(functional.cross_entropy(logits_of(model(**inputs)), targets))
        for of_optimizer in halves.values():
            for one in of_optimizer:
                one.learn(step)
        optimizer.step()
        warmup.step()
        optimizer.zero_grad()
        if step + 1 in _READ_AT:
            found += [(step + 1, name, _mean_over(matrix)) for name, matrix in halves.items()]
    return found


def _mean_over(halves: list[TwoHalves]) -> tuple[float, float]:
    correlations, shares = zip(*(one.compare() for one in halves), strict=True)
    return mean(correlations), mean(shares)


if __name__ == "__main__":
    sys.exit(main())
