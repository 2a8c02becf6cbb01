"""`make bench-dynamic`: RigL and SET against a static random mask, ResNet-20 on CIFAR-10 from scratch.

All have the same layer-wise counts (ERK) and the same training. The control of each is the static mask.
"""

import sys
from pathlib import Path
from typing import Any

from benchmarks.cifar import CifarMissing, prepare_cifar
from benchmarks.rows import Row, run_rows, show_finals
from benchmarks.scratch import prepare_untrained

OUTPUT = Path("bench-output") / "dynamic"
# Without a teacher, in bfloat16, an epoch of 49,059 images takes about two minutes on one thread.
_EPOCHS = 6


def main() -> int:
    """Run the rows and print their table; returns 2 without the data."""
    try:
        _, dataset = prepare_cifar(OUTPUT / "inputs", "resnet20")
    except CifarMissing as error:
        print(f"bench-dynamic: {error}", file=sys.stderr)
        return 2
    models = {"resnet20": prepare_untrained(OUTPUT / "inputs", "resnet-20", {})}
    results = run_rows(_rows(), models=models, datasets={"cifar10": dataset}, output=OUTPUT)
    show_finals(results, title=f"ResNet-20 from scratch, CIFAR-10, {_EPOCHS} epochs, one seed")
    return 0


def _rows() -> list[Row]:
    rows = [Row("dense", "resnet20", "cifar10", _spec(0.0, "one_shot"))]
    for sparsity in (0.8, 0.9):
        static = f"static {sparsity:.0%}"
        rows.append(Row(static, "resnet20", "cifar10", _spec(sparsity, "one_shot"), control="dense"))
        for schedule in ("set", "rigl"):
            spec = _spec(sparsity, schedule)
            rows.append(Row(f"{schedule} {sparsity:.0%}", "resnet20", "cifar10", spec, control=static))
    return rows


def _spec(sparsity: float, schedule: str) -> dict[str, Any]:  # Any: JSON
    return {
        "recipe": {
            "criterion": {"name": "random"},
            "allocation": {"name": "erk"},
            "target": {"metric": "sparsity", "value": sparsity},
            "schedule": {"name": schedule},
        },
        "finetune": {
            "epochs": _EPOCHS,
            "batch_size": 128,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "augment": True,
            "precision": "bfloat16",
            "distillation": None,
        },
        "evaluation": {"latency": None},
    }


if __name__ == "__main__":
    sys.exit(main())
