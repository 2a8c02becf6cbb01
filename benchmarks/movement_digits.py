"""`make bench-movement-digits`: movement against magnitude by how long there is to prune, on real digits.

A perceptron is trained to tell digits in pairs, then fine-tuned to tell each digit, and pruned meanwhile,
each matrix alike: a transfer, as movement is for (Sanh et al. 2020, arXiv:2005.07683). Mean and spread over
the seeds of the accuracy on 539 test digits, by sparsity and by the steps of the fine-tune.
"""

import sys
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.digits import Split, load_splits
from worker.pruning import Pruner

_SEEDS: Final = (0, 1, 2)
_SPARSITIES: Final = (0.9, 0.97)
_LENGTHS: Final = (60, 250, 1_000)
_PRETRAINING_STEPS: Final = 600
_BATCH: Final = 64
_LEARNING_RATE: Final = 3e-4
# Gradual from a tenth of the run on, done when 70 % of it are; scores that are learned choose often.
_WINDOW: Final = {"start_fraction": 0.1, "end_fraction": 0.7}
_INTERVAL_STEPS: Final = 4
_HEAD: Final = "6"
Json = dict[str, Any]  # Any: JSON
_CRITERIA: Final[Mapping[str, Json]] = {
    "magnitude": {"name": "magnitude"},
    "movement (adam)": {"name": "movement", "params": {"optimizer": "adam"}},
    "movement (sgd)": {"name": "movement", "params": {"optimizer": "sgd"}},
    "random": {"name": "random"},
}
Data = tuple[Tensor, Tensor]  # images [n, 64] float32 of 0..1, digits [n] int64


def main() -> int:
    """Print the table; returns 1 when movement, by Adam, loses where there is most time."""
    torch.set_num_threads(1)
    train, test = (_flatten(split) for split in load_splits())
    cases = [(sparsity, length) for sparsity in _SPARSITIES for length in _LENGTHS]
    table = Table(title=f"Digits, accuracy in %, mean and spread over {len(_SEEDS)} seeds")
    for head in ("sparsity", "steps", *_CRITERIA):
        table.add_column(head, justify="right")
    bases = {seed: _pretrain(train, seed) for seed in _SEEDS}
    has_lost = False
    for sparsity, length in track(cases, description="sparsities and lengths"):
        found = {
            name: [
                _fine_tune(bases[seed], train, test, _recipe(criterion, sparsity, length), length, seed)
                for seed in _SEEDS
            ]
            for name, criterion in _CRITERIA.items()
        }
        cells = [f"{100 * mean(one):.2f} ± {100 * stdev(one):.2f}" for one in found.values()]
        table.add_row(f"{sparsity:.0%}", f"{length:,}", *cells)
        if length == max(_LENGTHS):
            has_lost |= mean(found["movement (adam)"]) <= mean(found["magnitude"])
    Console(width=120).print(table)
    return 1 if has_lost else 0


def _flatten(split: Split) -> Data:
    return torch.from_numpy(split.x).float().flatten(1) / 255.0, torch.from_numpy(split.y)


def _build() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def _pretrain(train: Data, seed: int) -> nn.Sequential:
    """Return a perceptron that tells digits in pairs, but for its fresh last layer."""
    torch.manual_seed(seed)
    model, (images, digits) = _build(), train
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(_PRETRAINING_STEPS):
        drawn = torch.randint(len(images), (_BATCH,))
        torch.autograd.backward(functional.cross_entropy(model(images[drawn]), digits[drawn] // 2))
        optimizer.step()
        optimizer.zero_grad()
    head = model.get_submodule(_HEAD)
    assert isinstance(head, nn.Linear)
    head.reset_parameters()
    return model


def _recipe(criterion: Json, sparsity: float, length: int) -> Json:
    window: Json = dict(_WINDOW)
    if criterion["name"] == "movement":
        window["interval_fraction"] = _INTERVAL_STEPS / length
    return {
        "criterion": criterion,
        "allocation": {"name": "uniform"},
        "target": {"metric": "sparsity", "value": sparsity},
        "schedule": {"name": "cubic", "params": window},
        "layers": [{"match": _HEAD, "set": {"exclude": True}}],
    }


def _fine_tune(base: nn.Sequential, train: Data, test: Data, recipe: Json, length: int, seed: int) -> float:
    """Fine-tune a copy while it is pruned; returns its accuracy on the test digits."""
    model = _build()
    model.load_state_dict(base.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=length)
    pruner = Pruner(model, recipe, steps=length, seed=seed)
    pruner.attach(optimizer)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(length):
        drawn = torch.randint(len(train[0]), (_BATCH,), generator=generator)
        torch.autograd.backward(functional.cross_entropy(model(train[0][drawn]), train[1][drawn]))
        optimizer.step()
        pruner.step()
        schedule.step()
        optimizer.zero_grad()
    pruner.finish()
    with torch.no_grad():
        return float((model(test[0]).argmax(1) == test[1]).float().mean())


if __name__ == "__main__":
    sys.exit(main())
