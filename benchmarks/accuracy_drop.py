"""`make bench-accuracy-drop`: the smallest ResNet-20 and MiniLM-L6 whose accuracy falls by at most a point.

The search sees one half of the test data (`validation`), and what it found is judged on the other, with the
interval of the drop. Each network is searched as it is cut, and once more with a training to follow, a tenth
of which each size has before it is judged.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet
from rich.console import Console
from rich.table import Table

from benchmarks.cifar import CifarMissing, prepare_cifar
from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.follow import Upload
from benchmarks.minilm_training import prepare_dataset, prepare_model
from benchmarks.rows import Result, Row, run_rows

OUTPUT: Final = Path("bench-output") / "accuracy-drop"
_NETWORKS: Final = ("resnet20", "minilm")
_DATASETS: Final = {"resnet20": "cifar10", "minilm": "sst2"}
_MOST_DROP: Final = 0.01
# As in bench-resnets at 70 % and in bench-minilm at 50 %.
_TRAININGS: Final[dict[str, dict[str, Any]]] = {
    "resnet20": {
        "epochs": 4,
        "batch_size": 128,
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "weight_decay": 1e-4,
        "augment": True,
        "precision": "bfloat16",
        "distillation": {"alpha": 0.9, "temperature": 4.0},
    },
    "minilm": {
        "max_steps": 1_200,
        "batch_size": 32,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "precision": "bfloat16",
        "distillation": {"alpha": 0.9, "temperature": 2.0},
    },
}
Json = dict[str, Any]  # Any: JSON
_EVALUATIONS: Final[Json] = {"metrics": ["accuracy"], "latency": {"batch_size": 64, "repeats": 20}}


def main(arguments: list[str] | None = None) -> int:
    """Run both jobs side by side and print what they found; returns 2 without the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=list(_NETWORKS))
    parser.add_argument("--only", choices=("cut", "trained"), help="one of the two searches")
    given = parser.parse_args(arguments)
    chosen = given.networks
    searches = (given.only,) if given.only else ("cut", "trained")
    try:
        uploads = {name: _prepare(name, OUTPUT / "inputs" / name) for name in chosen}
    except (CifarMissing, NoBenchmarkData) as error:
        print(f"bench-accuracy-drop: {error}", file=sys.stderr)
        return 2
    results = run_rows(
        [_row(name, search) for search in searches for name in chosen],
        models={name: model for name, (model, _) in uploads.items()},
        datasets={_DATASETS[name]: dataset for name, (_, dataset) in uploads.items()},
        output=OUTPUT,
    )
    console = Console(width=120)
    for result in results:
        _show(console, result)
    return 0


def _prepare(name: str, folder: Path) -> tuple[Upload, Upload]:
    if name == "resnet20":
        model, dataset = prepare_cifar(folder, name)
        return model, _halve_images(dataset, folder)
    source = find_data_folder()
    return prepare_model(source, folder / "model"), _halve_texts(prepare_dataset(source), folder)


def _halve_images(dataset: Upload, folder: Path) -> Upload:
    with np.load(dataset.files["test"]) as whole:
        halves = [{key: whole[key][start::2] for key in ("x", "y")} for start in (0, 1)]
    files = {name: folder / f"{name}-half.npz" for name in ("validation", "test")}
    for path, half in zip(files.values(), halves, strict=True):
        np.savez(path, x=half["x"], y=half["y"])
    return Upload(dataset.files | files, dataset.manifest)


def _halve_texts(dataset: Upload, folder: Path) -> Upload:
    folder.mkdir(parents=True, exist_ok=True)
    whole = pyarrow.parquet.read_table(dataset.files["test"])
    files = {name: folder / f"{name}-half.parquet" for name in ("validation", "test")}
    for start, path in enumerate(files.values()):
        pyarrow.parquet.write_table(whole.take(list(range(start, whole.num_rows, 2))), path)
    return Upload(dataset.files | files, dataset.manifest)


def _row(name: str, search: str) -> Row:
    spec = _spec() | ({"finetune": _TRAININGS[name]} if search == "trained" else {})
    return Row(f"{name}, {search}", name, _DATASETS[name], spec, most_drop=_MOST_DROP)


def _spec() -> Json:
    # One round, since every probe is compared with the whole network.
    structure: Json = {
        "target": {"metric": "accuracy_drop", "value": _MOST_DROP},
        "criterion": {"name": "taylor"},
        "aggregation": "sum",
        "ranking": "global",
    }
    return {"structure": structure, "evaluation": _EVALUATIONS}


def _show(console: Console, result: Result) -> None:
    report = result.reports[0]
    summary, label = report["summary"], result.row.label
    steps = report["structure"]["probe_steps"]
    title = f"{label}: probes, each after {steps} steps of training" if steps else f"{label}: probes as cut"
    table = Table("units cut out", "drop on validation", title=title)
    for probe in report["structure"]["probes"][0]:
        table.add_row(str(probe["removed"]), f"{100 * probe['value']:+.2f} points")
    console.print(table)
    metric, latency = summary["metrics"][0], summary["latency"][0]
    low, high = (100 * bound for bound in metric["drop_ci95"])
    sizes = ", ".join(
        f"{name} {summary[name]['before']:,} -> {summary[name]['after']:,}" for name in ("parameters", "macs")
    )
    console.print(f"{label}: {sizes}; {latency['speedup']:.2f} times as fast at a batch of 64")
    console.print(
        f"{label}: accuracy on {metric['n']} other samples {100 * metric['baseline']:.2f} % -> "
        f"{100 * metric['final']:.2f} %, drop {100 * metric['drop']:+.2f} points ({low:+.2f} to {high:+.2f})"
    )


if __name__ == "__main__":
    sys.exit(main())
