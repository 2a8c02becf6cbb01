"""Predict a split's classes, one answer a sample, so that two models can be compared sample by sample."""

import torch
from torch import nn

from worker.datasets.images import ImageSplit


def predict(module: nn.Module, split: ImageSplit, *, batch_size: int, device: torch.device) -> torch.Tensor:
    """Return the class [n] int64 on the CPU that the model, set to evaluation mode, gives each sample."""
    module.eval()
    with torch.inference_mode():
        answers = [module(images.to(device)).argmax(dim=1).cpu() for images, _ in split.batches(batch_size)]
    return torch.cat(answers)
