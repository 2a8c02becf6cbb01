"""Measure the loss of a model with some weights masked, leaving the model as it was."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from worker.pruning.errors import NonfiniteLoss
from worker.pruning.statistics.calibration import Calibration, default_loss, read_batches, run, undisturbed


@torch.no_grad()
def mean_loss(model: nn.Module, masks: Mapping[str, Tensor], calibration: Calibration) -> float:
    """Return the mean loss over the data with masks in force, by parameter name.

    Raises MissingData without data, NonfiniteLoss when the loss is NaN or infinite.
    """
    device = next(model.parameters()).device
    batches = read_batches(calibration, device=device, reason="measuring sensitivity")
    parameters = dict(model.named_parameters())
    masked = {name: parameters[name].masked_fill(~mask, 0) for name, mask in masks.items()}
    loss = calibration.loss or default_loss
    with undisturbed(model):
        total = sum(float(loss(run(model, batch, masked), batch.targets)) * batch.size for batch in batches)
    mean = total / sum(batch.size for batch in batches)
    if not math.isfinite(mean):
        raise NonfiniteLoss(f"the loss is {mean} with {', '.join(masks) or 'nothing'} masked")
    return mean
