"""Run a model over a split and keep what the metrics need of each sample, so that two can be compared."""

import torch
from torch import nn

from worker.datasets.splits import Split
from worker.models.inputs import compute_logits, move
from worker.objectives.registry import Objective, Records


def record_split(
    module: nn.Module, split: Split, objective: Objective, *, batch_size: int, device: torch.device
) -> Records:
    """Return the records [n, …] of a split on the CPU, in its order; the model is set to evaluation mode."""
    module.eval()
    with torch.inference_mode():
        parts = [
            objective.record(compute_logits(module, move(batch.inputs, device)), batch.targets.to(device))
            for batch in split.batches(batch_size)
        ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
