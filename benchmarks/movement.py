"""`make bench-movement`: movement against magnitude at 80 and 90 %, from a pretrained encoder.

As in Sanh et al. 2020, arXiv:2005.07683: the encoder is as it was pretrained, with a new classifier, and is
pruned while it is fine-tuned on SST-2; each matrix to the same sparsity, without a teacher. A model that has
been fine-tuned already is no start for movement: `python -m benchmarks.movement_signal` shows why.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.follow import Upload
from benchmarks.minilm import load_pretrained
from benchmarks.minilm_training import prepare_dataset, write_folder
from benchmarks.rows import Row, run_rows, show_finals
from worker.training.precision import computes_in_bfloat16

OUTPUT = Path("bench-output") / "movement"
# Within half an hour on one thread. Without a teacher a step of 32 phrases takes about a third of a second in
# bfloat16, and twice that in float32.
_STEPS = 3_600 if computes_in_bfloat16(torch.device("cpu")) else 1_800
# At every step in the paper; every fourth, choosing costs little beside the step itself.
_INTERVAL_STEPS = 4
_MODEL, _DATASET = "pretrained", "sst2"
_CONTROL = "dense"


def main() -> int:
    """Run the rows and print their table; returns 1 when movement loses, 2 without the data."""
    try:
        data = find_data_folder()
        models = {_MODEL: _prepare_model(OUTPUT / "inputs" / "pretrained", data)}
        datasets = {_DATASET: prepare_dataset(data)}
    except NoBenchmarkData as error:
        print(f"bench-movement: {error}", file=sys.stderr)
        return 2
    results = run_rows(_rows(), models=models, datasets=datasets, output=OUTPUT)
    show_finals(
        results, title=f"MiniLM-L6 from its pretrained weights, SST-2 dev, {_STEPS:,} steps, one seed"
    )
    finals = {result.row.label: result.values("final")[0] for result in results}
    lost = [name for name in ("80%", "90%") if finals[f"movement {name}"] <= finals[f"magnitude {name}"]]
    return 1 if lost else 0


def _prepare_model(folder: Path, data: Path) -> Upload:
    state = load_pretrained(seed=0).state_dict()
    return write_folder(
        {name: tensor for name, tensor in state.items() if "position_ids" not in name}, data, folder
    )


def _rows() -> list[Row]:
    rows = [Row(_CONTROL, _MODEL, _DATASET, _spec("magnitude", 0.0))]
    for sparsity in (0.8, 0.9):
        for criterion in ("magnitude", "movement"):
            label = f"{criterion} {sparsity:.0%}"
            rows.append(Row(label, _MODEL, _DATASET, _spec(criterion, sparsity), control=_CONTROL))
    return rows


def _spec(criterion: str, sparsity: float) -> dict[str, Any]:  # Any: JSON
    window = {"start_fraction": 0.1, "end_fraction": 0.7}
    if criterion == "movement":
        # Often: what goes at once all goes down one slope.
        window["interval_fraction"] = _INTERVAL_STEPS / _STEPS
    return {
        "recipe": {
            "criterion": {"name": criterion},
            "allocation": {"name": "uniform"},
            "target": {"metric": "sparsity", "value": sparsity},
            "schedule": {"name": "cubic", "params": window},
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
