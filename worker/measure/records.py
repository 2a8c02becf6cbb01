"""Run a model over a split and keep what the metrics need of each sample, so that two can be compared."""

import torch
from torch import Tensor, nn

from app.core.errors import NonfiniteAnswers
from worker.datasets.splits import Split
from worker.models.inputs import compute_logits, move
from worker.objectives.registry import Objective, Records


def record_split(
    module: nn.Module, split: Split, objective: Objective, *, batch_size: int, device: torch.device
) -> Records:
    """Return the records [n, …] of a split on the CPU, in its order; the model is set to evaluation mode.

    Raises NonfiniteAnswers: of NaN there is no metric, and a class that NaN answers is none.
    """
    module.eval()
    with torch.inference_mode():
        parts = [
            objective.record(
                _check(compute_logits(module, move(batch.inputs, device))), batch.targets.to(device)
            )
            for batch in split.batches(batch_size)
        ]
    records = {name: _put_back(torch.cat([part[name] for part in parts]), split.order) for name in parts[0]}
    for name, record in records.items():
        if record.is_floating_point() and not bool(record.isfinite().all()):
            raise NonfiniteAnswers(f"the model's answers to the split {split.name} give no finite {name}")
    return records


def _put_back(record: Tensor, order: Tensor | None) -> Tensor:
    """Return a record [n, …] that was taken in another order in the order of the split."""
    if order is None:
        return record
    restored = torch.empty_like(record)
    restored[order] = record
    return restored


def _check(logits: Tensor) -> Tensor:
    if bool(logits.isnan().any()):
        raise NonfiniteAnswers("the model answers NaN to samples of finite numbers")
    return logits
