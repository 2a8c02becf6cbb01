"""`make bench-resnets`: ResNet-20 and ResNet-56 on CIFAR-10 at 70 and 90 %, with dense controls.

The control is the dense network, trained on exactly as long as the pruned one with the same settings.
Training is in bfloat16, which halves a step on a CPU that has its products, and in float32 for fewer epochs
where it has not; evaluation is in float32.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cifar import CifarMissing, prepare_cifar
from benchmarks.rows import Row, run_rows, show_rows
from worker.training.precision import computes_in_bfloat16

OUTPUT = Path("bench-output") / "resnets"
_SEEDS = (0, 1, 2)
_MODELS = ("resnet20", "resnet56")
_SPARSITIES = (0.7, 0.9)
# Epochs, batch size, learning rate. A run trains at most half an hour on one thread: ResNet-56 costs three
# times as much as ResNet-20. At 90 % three epochs of ResNet-20 lost 3.0 points in batches of 128 at 0.05, and
# 2.6 in batches of 64 at 0.025: where training is short, the number of steps counts.
_TRAININGS = (
    {
        ("resnet20", 0.7): (4, 128, 0.02),
        ("resnet20", 0.9): (12, 64, 0.03),
        ("resnet56", 0.7): (4, 64, 0.01),
        ("resnet56", 0.9): (4, 64, 0.025),
    }
    if computes_in_bfloat16(torch.device("cpu"))
    else {
        ("resnet20", 0.7): (4, 128, 0.02),
        ("resnet20", 0.9): (5, 64, 0.03),
        ("resnet56", 0.7): (2, 64, 0.01),
        ("resnet56", 0.9): (2, 64, 0.025),
    }
)
_BARS = {("resnet20", 0.7): 0.003, ("resnet20", 0.9): 0.02, ("resnet56", 0.7): 0.003, ("resnet56", 0.9): 0.01}


def main(arguments: list[str] | None = None) -> int:
    """Run the rows and print their table; returns 1 when a bar is missed, 2 without the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=_MODELS, default=list(_MODELS))
    parser.add_argument("--sparsities", nargs="+", type=float, choices=_SPARSITIES, default=list(_SPARSITIES))
    parser.add_argument(
        "--epochs", type=int, help="train longer: what takes hours here takes minutes on a GPU"
    )
    given = parser.parse_args(arguments)
    chosen = given.models
    try:
        uploads = {name: prepare_cifar(OUTPUT / "inputs", name) for name in chosen}
    except CifarMissing as error:
        print(f"bench-resnets: {error}", file=sys.stderr)
        return 2
    rows = [row for name in chosen for row in _rows(name, given.sparsities, given.epochs)]
    results = run_rows(
        rows,
        models={name: model for name, (model, _) in uploads.items()},
        datasets={"cifar10": uploads[chosen[0]][1]},
        output=OUTPUT,
    )
    return show_rows(results, title="CIFAR-10, 5,000 test images, global magnitude, cubic schedule")


def _rows(name: str, sparsities: Sequence[float], epochs_instead: int | None) -> list[Row]:
    rows = []
    for sparsity in sparsities:
        epochs, batch_size, rate = _TRAININGS[name, sparsity]
        epochs = epochs_instead or epochs
        control = f"{name} dense, trained as for {sparsity:.0%}"
        rows.append(
            Row(
                f"{name} {sparsity:.0%}",
                name,
                "cifar10",
                _spec(sparsity, epochs, batch_size=batch_size, rate=rate),
                seeds=_SEEDS if (name, sparsity) == ("resnet20", 0.7) else (0,),
                most_drop=_BARS[name, sparsity],
                control=control,
            )
        )
        spec = _spec(0.0, epochs, batch_size=batch_size, rate=rate)
        rows.append(Row(control, name, "cifar10", spec))
    return rows


def _spec(sparsity: float, epochs: int, *, batch_size: int, rate: float) -> dict[str, Any]:  # Any: JSON
    return {
        "recipe": {"target": {"metric": "sparsity", "value": sparsity}, "schedule": {"name": "cubic"}},
        "finetune": {
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": "sgd",
            "learning_rate": rate,
            "weight_decay": 1e-4,
            "augment": True,
            "precision": "bfloat16",
            "distillation": {"alpha": 0.9, "temperature": 4.0},
        },
        "evaluation": {"latency": None},
    }


if __name__ == "__main__":
    sys.exit(main())
