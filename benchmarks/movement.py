"""`make bench-movement`: movement against magnitude at 80 and 90 %, from a pretrained encoder.

As in Sanh et al. 2020, arXiv:2005.07683: the encoder is as it was pretrained, with a new classifier, and is
pruned while it is fine-tuned on SST-2; each matrix to the same sparsity, without a teacher. A model that has
been fine-tuned already is no start for movement: `python -m benchmarks.movement_signal` shows why. Each
criterion has the schedule that suits it: what magnitude finds small goes soon, and what movement finds has to
go evenly, since all of it goes in one direction, which the rest can only follow as fast as it learns.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.follow import Upload
from benchmarks.minilm import load_pretrained
from benchmarks.minilm_training import prepare_dataset, write_folder
from benchmarks.rows import Row, run_rows, show_finals

OUTPUT = Path("bench-output") / "movement"
# Without a teacher a step of 32 phrases takes about a third of a second on one thread: twenty minutes.
_STEPS = 3_600
# At every step in the paper; every fourth, choosing costs little beside the step itself.
_INTERVAL_STEPS = 4
_MODEL, _DATASET = "pretrained", "sst2"
_CONTROL = "dense"
_CRITERIA = ("magnitude", "movement")
_SCHEDULES: dict[str, dict[str, Any]] = {  # Any: JSON
    "magnitude": {"name": "cubic", "params": {"start_fraction": 0.1, "end_fraction": 0.7}},
    "movement": {
        "name": "linear",
        "params": {
            "start_fraction": 0.05,
            "end_fraction": 0.7,
            "interval_fraction": _INTERVAL_STEPS / _STEPS,
        },
    },
}


def main(arguments: list[str] | None = None) -> int:
    """Run the rows and print their table; returns 1 when movement loses, 2 without the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--criteria", nargs="+", choices=_CRITERIA, default=list(_CRITERIA))
    criteria = parser.parse_args(arguments).criteria
    try:
        data = find_data_folder()
        models = {_MODEL: _prepare_model(OUTPUT / "inputs" / "pretrained", data)}
        datasets = {_DATASET: prepare_dataset(data)}
    except NoBenchmarkData as error:
        print(f"bench-movement: {error}", file=sys.stderr)
        return 2
    results = run_rows(_rows(criteria), models=models, datasets=datasets, output=OUTPUT)
    show_finals(
        results, title=f"MiniLM-L6 from its pretrained weights, SST-2 dev, {_STEPS:,} steps, one seed"
    )
    if set(criteria) != set(_CRITERIA):
        return 0
    finals = {result.row.label: result.values("final")[0] for result in results}
    lost = [name for name in ("80%", "90%") if finals[f"movement {name}"] <= finals[f"magnitude {name}"]]
    return 1 if lost else 0


def _prepare_model(folder: Path, data: Path) -> Upload:
    state = load_pretrained(seed=0).state_dict()
    return write_folder(
        {name: tensor for name, tensor in state.items() if "position_ids" not in name}, data, folder
    )


def _rows(criteria: Sequence[str]) -> list[Row]:
    compared = set(criteria) == set(_CRITERIA)
    rows = [Row(_CONTROL, _MODEL, _DATASET, _spec("magnitude", 0.0))] if compared else []
    for sparsity in (0.8, 0.9):
        for criterion in criteria:
            label = f"{criterion} {sparsity:.0%}"
            control = _CONTROL if compared else None
            rows.append(Row(label, _MODEL, _DATASET, _spec(criterion, sparsity), control=control))
    return rows


def _spec(criterion: str, sparsity: float) -> dict[str, Any]:  # Any: JSON
    return {
        "recipe": {
            "criterion": {"name": criterion},
            "allocation": {"name": "uniform"},
            "target": {"metric": "sparsity", "value": sparsity},
            "schedule": _SCHEDULES[criterion],
            "layers": [{"match": glob, "set": {"exclude": True}} for glob in ("bert.pooler*", "classifier*")],
        },
        "finetune": {
            "max_steps": _STEPS,
            "batch_size": 32,
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "precision": "bfloat16",
            "distillation": None,
        },
        "evaluation": {"metrics": ["accuracy"], "latency": None},
    }


if __name__ == "__main__":
    sys.exit(main())
