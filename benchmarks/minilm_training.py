"""`make bench-minilm`: MiniLM-L6 on SST-2, pruned while fine-tuning: 50 %, 70 % and 2:4 by magnitude.

MiniLM-L6 is a BERT of 6 layers with hidden size 384, not bert-base. Sparsities count the encoder's matrices.
The control is the dense network, trained on exactly as long with the same settings. Training is in
bfloat16, half as long again per step in float32 on a CPU that has its products; evaluation is in float32.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.data_folder import NoBenchmarkData, find_data_folder, find_file
from benchmarks.follow import Upload
from benchmarks.minilm import find_package_folder
from benchmarks.rows import Row, run_rows, show_rows

OUTPUT = Path("bench-output") / "minilm"
_SEEDS = (0, 1, 2)
_MODEL, _DATASET = "minilm", "sst2"
# 2,400 steps of 32 phrases and the teacher's answers to them: about twenty minutes on one thread.
_STEPS, _LONG_STEPS = 1_200, 2_400
_CONTROL, _LONG_CONTROL = "dense, 1,200 steps", "dense, 2,400 steps"


def main() -> int:
    """Run the rows and print their table; returns 1 when a bar is missed, 2 without the data."""
    try:
        folder = find_data_folder()
        models = {_MODEL: prepare_model(folder, OUTPUT / "inputs" / "minilm")}
        datasets = {_DATASET: prepare_dataset(folder)}
    except NoBenchmarkData as error:
        print(f"bench-minilm: {error}", file=sys.stderr)
        return 2
    results = run_rows(_rows(), models=models, datasets=datasets, output=OUTPUT)
    return show_rows(results, title="MiniLM-L6 (6 layers, hidden 384), SST-2 dev, 872 sentences")


def _rows() -> list[Row]:
    magnitude = {"name": "magnitude"}
    n_m = {"name": "n_m", "params": {"keep": 2, "of": 4}}
    return [
        _row(_CONTROL, _spec(0.0, magnitude, steps=_STEPS)),
        _row("50 %", _spec(0.5, magnitude, steps=_STEPS), seeds=_SEEDS, most_drop=0.005, control=_CONTROL),
        _row(_LONG_CONTROL, _spec(0.0, magnitude)),
        _row("70 %", _spec(0.7, magnitude), most_drop=0.015, control=_LONG_CONTROL),
        _row("2:4", _spec(0.5, magnitude, pattern=n_m), most_drop=0.007, control=_LONG_CONTROL),
    ]


def _row(
    label: str,
    spec: dict[str, Any],  # Any: JSON
    *,
    seeds: tuple[int, ...] = (0,),
    most_drop: float | None = None,
    control: str | None = None,
) -> Row:
    return Row(label, _MODEL, _DATASET, spec, seeds=seeds, most_drop=most_drop, control=control)


def _spec(
    sparsity: float,
    criterion: dict[str, Any],  # Any: JSON
    *,
    pattern: dict[str, Any] | None = None,  # Any: JSON
    steps: int = _LONG_STEPS,
) -> dict[str, Any]:  # Any: JSON
    return {
        "recipe": {
            "criterion": criterion,
            "pattern": pattern or {"name": "unstructured"},
            "target": {"metric": "sparsity", "value": sparsity},
            "schedule": {"name": "cubic"},
            "layers": [{"match": glob, "set": {"exclude": True}} for glob in ("bert.pooler*", "classifier*")],
        },
        "finetune": {
            "max_steps": steps,
            "batch_size": 32,
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "precision": "bfloat16",
            "distillation": {"alpha": 0.9, "temperature": 2.0},
        },
        "evaluation": {"metrics": ["accuracy"], "latency": None},
    }


def prepare_model(data: Path, folder: Path) -> Upload:
    """Write the fine-tuned model as the folder that transformers would save: config, weights, tokenizer.

    Raises NoBenchmarkData when a file or the package of its embeddings is missing.
    """
    weights = load_file(find_file(data, "minilm_l6_sst2_encoder_fp16.safetensors"))
    base = load_file(find_package_folder() / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] = base["embeddings.word_embeddings.weight"]
    return write_folder(weights, data, folder)


def write_folder(weights: Mapping[str, Tensor], data: Path, folder: Path) -> Upload:
    """Write a MiniLM-L6 with a classifier of two classes, in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    package = find_package_folder()
    plain = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(find_file(data, "minilm_l6_sst2_config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config))
    # The data's note judges it on at most 64 tokens.
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64, "pad_token": "[PAD]"}))
    tokenizer = json.loads((package / "tokenizer.json").read_text()) | {"truncation": None, "padding": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    files = {path.name: path for path in sorted(folder.iterdir())}
    return Upload(files, {"name": "MiniLM-L6, SST-2", "format": "huggingface"})


def prepare_dataset(data: Path) -> Upload:
    files = {
        split: find_file(data, f"sst2_{name}.parquet")
        for split, name in (("train", "train"), ("test", "dev"))
    }
    manifest = {
        "name": "SST-2",
        "task": "text-classification",
        "format": "parquet",
        "columns": {"text": "sentence", "label": "label"},
    }
    return Upload(files, manifest)


if __name__ == "__main__":
    sys.exit(main())
