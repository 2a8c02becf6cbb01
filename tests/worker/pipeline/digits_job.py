"""A tiny job in a work folder: the digits, and a narrow network trained on them for a moment."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

from app.core.spec import JobSpec
from benchmarks.digits import Split, load_splits, save_split
from tests.support.digits import ARCHITECTURE
from worker.measure.size import digest_file
from worker.models.registry import build
from worker.protocol import INPUT_NAME, DatasetInput, ModelInput, RunnerInput

_STEPS = 60
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Uploads:
    """Local copies of a model and a dataset."""

    model: Path
    train: Path
    test: Path

    def model_input(self, **changes: Any) -> ModelInput:
        given = {
            "format": "safetensors",
            "architecture": ARCHITECTURE,
            "files": {"weights": self.model},
            "sha256": {"weights": digest_file(self.model)},
        }
        return ModelInput(**{**given, **changes})

    def dataset_input(self, **changes: Any) -> DatasetInput:
        given = {
            "format": "npz",
            "task": "image-classification",
            "layout": "NCHW",
            "normalize": None,
            "files": {"train": self.train, "test": self.test},
            "sha256": {"train": digest_file(self.train), "test": digest_file(self.test)},
        }
        return DatasetInput(**{**given, **changes})

    def runner_input(self, spec: dict[str, Any] | None = None, **changes: Any) -> RunnerInput:
        given = {
            "job_id": "job_" + "0" * 26,
            "spec_sha256": "0" * 64,
            "spec": make_spec(**(spec or {})),
            "model": self.model_input(),
            "dataset": self.dataset_input(),
            "threads": 1,
            "device": "cpu",
        }
        return RunnerInput(**{**given, **changes})

    def make_work(self, work: Path, spec: dict[str, Any] | None = None, **changes: Any) -> Path:
        """Make the work folder that a supervisor would."""
        work.mkdir(parents=True)
        (work / INPUT_NAME).write_text(self.runner_input(spec, **changes).model_dump_json())
        return work


def make_spec(**changes: Any) -> JobSpec:
    """70 %, gradually, in 20 steps of training with a teacher."""
    spec = {
        "model_id": "mdl_" + "0" * 26,
        "dataset_id": "dst_" + "0" * 26,
        "recipe": {"target": {"value": 0.7}, "schedule": {"name": "cubic"}},
        "finetune": {"max_steps": 20, "batch_size": 64, "learning_rate": 0.05, "distillation": {}},
        "evaluation": {"latency": {"repeats": 10}},
    }
    return JobSpec.model_validate_json(json.dumps(spec | changes))


def write_uploads(folder: Path) -> Uploads:
    """Write the digits as npz, and a network that has seen them for 60 steps."""
    train, test = load_splits()
    uploads = Uploads(folder / "model.safetensors", folder / "train.npz", folder / "test.npz")
    save_split(train, uploads.train)
    save_split(test, uploads.test)
    save_file(_train(train), uploads.model)
    return uploads


def _train(split: Split) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = build(ARCHITECTURE).module.train()
    x, y = torch.from_numpy(split.x).float() / 255, torch.from_numpy(split.y)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for step in range(_STEPS):
        picks = torch.arange(step * _BATCH_SIZE, (step + 1) * _BATCH_SIZE) % len(y)
        optimizer.zero_grad()
        functional.cross_entropy(module(x[picks]), y[picks]).backward()
        optimizer.step()
    return module.state_dict()
