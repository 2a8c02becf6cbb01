"""Predict the test split for a stage and keep the answers, one a sample."""

import torch
from torch import nn

from worker.measure.accuracy import predict
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job

_NAME = "predictions.safetensors"
_KEY = "classes"


def predict_test_split(job: Job, folder: StageFolder, module: nn.Module) -> Data:
    """Predict the test split, keep the answers and return the accuracy; nothing without a dataset."""
    split = job.test_split
    if split is None:
        return {}
    answers = predict(module, split, batch_size=job.spec.evaluation.batch_size, device=job.device)
    folder.write_tensors(_NAME, {_KEY: answers})
    correct = int((answers == split.labels).sum())
    return {"accuracy": correct / len(split), "correct": correct, "n": len(split)}


def read_predictions(folder: StageFolder) -> torch.Tensor:
    """Return the classes [n] int64 that a stage predicted for the test split."""
    return folder.read_tensors(_NAME)[_KEY]
