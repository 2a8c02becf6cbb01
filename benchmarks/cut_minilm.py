"""`make bench-cut-minilm`: half of MiniLM-L6's heads and FFN neurons cut out, then fine-tuned on SST-2.

The drop on the dev split, the speed-up measured in one run, and whether transformers loads what comes out.
The control is the dense network, trained on exactly as long with the same settings, in bfloat16; what is
measured is measured in float32.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.minilm import minilm_task
from benchmarks.minilm_training import prepare_dataset, prepare_model
from benchmarks.rows import Result, Row, find_files, run_rows, show_rows
from worker.pruning.removal import resize

OUTPUT: Final = Path("bench-output") / "cut-minilm"
_STEPS: Final = 2_400
_HALF: Final = 0.5
_CONTROL: Final = "dense"
Json = dict[str, Any]  # Any: JSON
# Rows say how much goes, so the target is what is met at once.
STRUCTURE: Final[Json] = {
    "target": {"metric": "parameters", "value": 22_713_986},
    "criterion": {"name": "taylor"},
    "aggregation": "sum",
    "ranking": "uniform",
    "layers": [
        {"match": "bert.pooler.dense", "set": {"exclude": True}},
        {"match": "*.attention.self.*", "set": {"sparsity": _HALF}},
        {"match": "*.intermediate.dense", "set": {"sparsity": _HALF}},
    ],
}


def main(arguments: list[str] | None = None) -> int:
    """Run the rows side by side and print what came out; returns 1 when it does not load, 2 without data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=_STEPS)
    steps = parser.parse_args(arguments).steps
    output = OUTPUT if steps == _STEPS else OUTPUT.with_name(f"{OUTPUT.name}-{steps}-steps")
    try:
        folder = find_data_folder()
        models = {"minilm": prepare_model(folder, output / "inputs" / "minilm")}
        datasets = {"sst2": prepare_dataset(folder)}
    except NoBenchmarkData as error:
        print(f"bench-cut-minilm: {error}", file=sys.stderr)
        return 2
    results = run_rows(_rows(steps), models=models, datasets=datasets, output=output)
    show_rows(results, title="MiniLM-L6 (6 layers, hidden 384), half of heads and FFN neurons, SST-2 dev")
    _show_sizes(results[0])
    return 0 if _show_reload(results[0], folder, find_files(output, results[0].row, 0)) else 1


def load_cut(folder: Path) -> nn.Module:
    """Load a cut folder with transformers, as the page on structure says it is done."""
    tensors = load_file(folder / "model.safetensors")
    model: nn.Module = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
    resize(model, {name: tensor.shape for name, tensor in tensors.items()}, {})
    model.load_state_dict(tensors)
    return model.eval()


def _rows(steps: int) -> list[Row]:
    finetune: Json = {
        "max_steps": steps,
        "batch_size": 32,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "precision": "bfloat16",
        "distillation": {"alpha": 0.9, "temperature": 2.0},
    }
    latency = {"batch_size": 64, "repeats": 20}
    cut = {
        "structure": STRUCTURE,
        "finetune": finetune,
        "evaluation": {"metrics": ["accuracy"], "latency": latency},
    }
    dense = {
        "recipe": {"target": {"metric": "sparsity", "value": 0.0}},
        "finetune": finetune,
        "evaluation": {"metrics": ["accuracy"], "latency": None},
    }
    return [
        Row("cut", "minilm", "sst2", cut, control=_CONTROL, keeps_files=True),
        Row(_CONTROL, "minilm", "sst2", dense),
    ]


def _show_sizes(result: Result) -> None:
    summary = result.reports[0]["summary"]
    latency = summary["latency"][0]
    low, high = latency["speedup_ci95"]
    ratio = summary["macs"]["before"] / summary["macs"]["after"]
    dense_ms, cut_ms = (latency[name]["p50"] for name in ("baseline_ms", "final_ms"))
    lines = [
        f"{name}: {summary[name]['before']:,} -> {summary[name]['after']:,}"
        for name in ("parameters", "macs")
    ]
    lines += [
        f"batch {latency['batch_size']}, one thread, {latency['runtime']}: {dense_ms:.1f} -> {cut_ms:.1f} ms",
        f"{latency['speedup']:.2f} times as fast ({low:.2f} to {high:.2f}), {ratio:.2f} times fewer products",
    ]
    for line in lines:
        print(line)


def _show_reload(result: Result, data: Path, folder: Path) -> bool:
    """Load the downloaded folder with transformers and judge it again: one sentence may be on the edge."""
    metric = result.reports[0]["summary"]["metrics"][0]
    with torch.inference_mode():
        accuracy = minilm_task(data).accuracy(load_cut(folder))
    print(f"loaded by transformers: {100 * accuracy:.2f} %, in the report {100 * metric['final']:.2f} %")
    return bool(abs(accuracy - metric["final"]) < 1.5 / metric["n"])


if __name__ == "__main__":
    sys.exit(main())
