"""A tiny real job: handwritten digits, a narrow ResNet, gradual pruning to 70 % with distillation."""

import json
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save

from benchmarks.digits import load_splits, save_split
from worker.models.registry import build

ARCHITECTURE = {"library": "secateur", "name": "resnet8x8", "params": {"width": 8}}


VIT = {"library": "secateur", "name": "vit-small-images", "params": {"width": 32, "depth": 2}}


def model_bytes(architecture: dict[str, Any] = ARCHITECTURE) -> bytes:
    """Return an untrained network: what pruning does to it can be checked without training it first."""
    torch.manual_seed(0)
    state = build(architecture).module.state_dict()
    return save({name: tensor.contiguous() for name, tensor in state.items()})


def upload_model(client: httpx.Client, data: bytes | None = None, **changes: Any) -> httpx.Response:
    manifest = {"name": "digits net", "format": "safetensors", "architecture": ARCHITECTURE} | changes
    return client.post(
        "/v1/models",
        data={"manifest": json.dumps(manifest)},
        files={"file": ("model.safetensors", data if data is not None else model_bytes())},
    )


def upload_dataset(client: httpx.Client, folder: Path) -> httpx.Response:
    train, test = load_splits()
    paths = {
        name: save_split(split, folder / f"{name}.npz") for name, split in (("train", train), ("test", test))
    }
    manifest = {
        "name": "digits",
        "task": "image-classification",
        "format": "npz",
        "splits": {name: path.name for name, path in paths.items()},
        "layout": "NCHW",
    }
    files = [("file", (path.name, path.read_bytes())) for path in paths.values()]
    return client.post("/v1/datasets", data={"manifest": json.dumps(manifest)}, files=files)


def job_spec(model_id: str, dataset_id: str, *, epochs: int = 3, **changes: Any) -> dict[str, Any]:
    spec = {
        "model_id": model_id,
        "dataset_id": dataset_id,
        "recipe": {
            "target": {"metric": "sparsity", "value": 0.7},
            "schedule": {"name": "cubic", "params": {}},
        },
        "finetune": {
            "epochs": epochs,
            "batch_size": 64,
            "augment": False,
            "distillation": {"alpha": 0.5},
        },
        "evaluation": {"latency": {"repeats": 10}},
    }
    return spec | changes
