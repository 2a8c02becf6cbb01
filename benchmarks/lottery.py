"""`make bench-lottery`: winning tickets against random re-initialisation and random masks.

LeNet-300-100 on Fashion-MNIST, and ResNet-20 on a fifth of CIFAR-10, both from fresh weights, others
with every seed; a row is mean and spread over the seeds. A ticket is the mask found in several rounds with
the weights it started from.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.cifar import CifarMissing, prepare_cifar
from benchmarks.fashion import FashionMissing, prepare_fashion
from benchmarks.follow import Upload
from benchmarks.rows import Result, Row, run_rows
from benchmarks.scratch import prepare_untrained

OUTPUT = Path("bench-output") / "lottery"
_SEEDS = (0, 1, 2)
_NETWORKS = ("lenet", "resnet20")
_CONTROLS = ("random_reinit", "random_mask")


def main(arguments: list[str] | None = None) -> int:
    """Run the rows and print their table; returns 1 when a ticket loses, 2 without the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=list(_NETWORKS))
    chosen = parser.parse_args(arguments).networks
    try:
        rows, models, datasets = _prepare(chosen)
    except (CifarMissing, FashionMissing) as error:
        print(f"bench-lottery: {error}", file=sys.stderr)
        return 2
    results = run_rows(rows, models=models, datasets=datasets, output=OUTPUT)
    return _show(results)


def _prepare(chosen: Sequence[str]) -> tuple[list[Row], dict[str, Upload], dict[str, Upload]]:
    rows: list[Row] = []
    models: dict[str, Upload] = {}
    datasets: dict[str, Upload] = {}
    inputs = OUTPUT / "inputs"
    if "lenet" in chosen:
        for seed in _SEEDS:
            models[f"lenet{seed}"] = prepare_untrained(inputs, "lenet-300-100", {}, seed=seed)
        datasets["fashion"] = prepare_fashion(inputs / "fashion")
        for sparsity in (0.8, 0.9, 0.95):
            spec = _spec(sparsity, rounds=6, epochs=4, learning_rate=0.05, augment=False, rewind=0.0)
            rows.append(Row(f"LeNet-300-100 {sparsity:.0%}", "lenet{seed}", "fashion", spec, seeds=_SEEDS))
    if "resnet20" in chosen:
        for seed in _SEEDS:
            models[f"resnet{seed}"] = prepare_untrained(inputs, "resnet-20", {}, seed=seed)
        datasets["cifar10"] = _take_fifth(prepare_cifar(inputs / "cifar", "resnet20")[1])
        for sparsity in (0.8, 0.9):
            spec = _spec(sparsity, rounds=5, epochs=5, learning_rate=0.1, augment=True, rewind=0.1)
            spec["finetune"]["precision"] = "bfloat16"
            rows.append(Row(f"ResNet-20 {sparsity:.0%}", "resnet{seed}", "cifar10", spec, seeds=_SEEDS))
    return rows, models, datasets


def _take_fifth(dataset: Upload) -> Upload:
    """Keep the first fifth of the train images: each of the eight trainings of a row has to be short."""
    with np.load(dataset.files["train"]) as arrays:
        x, y = arrays["x"], arrays["y"]
    part = dataset.files["train"].with_name("train-fifth.npz")
    np.savez(part, x=x[: len(x) // 5], y=y[: len(y) // 5])
    return Upload(dataset.files | {"train": part}, dataset.manifest)


def _spec(
    sparsity: float, *, rounds: int, epochs: int, learning_rate: float, augment: bool, rewind: float
) -> dict[str, Any]:  # Any: JSON
    params = {"rounds": rounds, "rewind_fraction": rewind, "controls": list(_CONTROLS)}
    return {
        "recipe": {
            "target": {"metric": "sparsity", "value": sparsity},
            "schedule": {"name": "lottery_ticket", "params": params},
        },
        "finetune": {
            "epochs": epochs,
            "batch_size": 128,
            "optimizer": "sgd",
            "learning_rate": learning_rate,
            "weight_decay": 5e-4,
            "augment": augment,
            "distillation": None,
        },
        "evaluation": {"latency": None},
    }


def _show(results: Sequence[Result]) -> int:
    table = Table(title="Accuracy, mean ± spread over the seeds")
    for head in ("", "rounds", "seeds", "ticket", "random re-initialisation", "random mask", "ticket wins"):
        table.add_column(head, justify="left" if not head else "right")
    lost = 0
    for result in results:
        tickets = result.values("final")
        controls = {name: [_control(report, name) for report in result.reports] for name in _CONTROLS}
        wins = sum(a > b for a, b in zip(tickets, controls["random_reinit"], strict=True))
        lost += mean(tickets) <= mean(controls["random_reinit"])
        rounds = result.row.spec["recipe"]["schedule"]["params"]["rounds"]
        columns = (tickets, *controls.values())
        table.add_row(
            result.row.label,
            str(rounds),
            str(len(tickets)),
            *(f"{mean(column):.2%} ± {stdev(column):.2%}" for column in columns),
            f"{wins} of {len(tickets)}",
        )
    Console(width=130).print(table)
    return 1 if lost else 0


def _control(report: dict[str, Any], name: str) -> float:  # Any: JSON
    control = next(control for control in report["controls"] if control["name"] == name)
    return float(control["metrics"][0]["final"])


if __name__ == "__main__":
    sys.exit(main())
