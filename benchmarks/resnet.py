"""`make bench-resnet`: ResNet-20 on CIFAR-10 through HTTP, 70 % global magnitude, against its bars."""

import shutil
import sys
from pathlib import Path

from rich.console import Console

from app.client import Client
from benchmarks.cifar import CifarMissing, prepare_cifar
from benchmarks.follow import Json, run_job
from benchmarks.service import serving

OUTPUT = Path("bench-output") / "resnet"
SPARSITY = 0.7
MOST_DROP = 0.005
SPEC = {
    "name": "ResNet-20, CIFAR-10, 70 % global magnitude",
    "recipe": {"target": {"metric": "sparsity", "value": SPARSITY}, "schedule": {"name": "cubic"}},
    "finetune": {
        "epochs": 4,
        "batch_size": 128,
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "weight_decay": 1e-4,
        "augment": True,
        "distillation": {"alpha": 0.9, "temperature": 4.0},
    },
}


def main() -> int:
    """Run the job; returns 0 when every bar is met, 1 when one is missed, 2 without the data."""
    console = Console()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    try:
        model, dataset = prepare_cifar(OUTPUT / "inputs", "resnet20")
    except CifarMissing as error:
        console.print(f"bench-resnet: {error}", markup=False)
        return 2
    with serving(OUTPUT / "data") as url, Client(url) as client:
        report = run_job(client, console, SPEC, model=model, dataset=dataset, output=OUTPUT / "result")
    return _judge(report, console)


def _judge(report: Json, console: Console) -> int:
    metric = report["summary"]["metrics"][0]
    prunable = [layer for layer in report["layers"] if layer["prunable"]]
    weights = sum(layer["parameters_before"] for layer in prunable)
    zeros = weights - sum(layer["nonzero"] for layer in prunable)
    bars = {
        f"dense accuracy {metric['baseline']:.4f}, promised 0.914": round(metric["baseline"], 3) == 0.914,
        f"zeros {zeros:,} of {weights:,}, asked {round(SPARSITY * weights):,}": zeros
        == round(SPARSITY * weights),
        f"drop {metric['drop']:+.4f}, at most {MOST_DROP}": metric["drop"] <= MOST_DROP,
    }
    console.print()
    for sentence, met in bars.items():
        console.print(f"{'met   ' if met else 'MISSED'} {sentence}", markup=False)
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
