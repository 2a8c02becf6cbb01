"""A benchmark task: a trained network, calibration data from its train split, and its test score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.pruning.statistics.calibration import Inputs, logits_of

Batch = tuple[Inputs, Tensor]


@dataclass(frozen=True)
class Task:
    """`excluded` are globs of layers that stay dense.

    `units` is the pattern that removes whole outputs, `units_excluded` what it leaves alone, and
    `units_sparsities` how far it goes: farther, every network is at chance before recovery.
    """

    name: str
    load: Callable[[], nn.Module]
    calibration: Sequence[Batch]
    test: Sequence[Batch]
    excluded: tuple[str, ...]
    units: str
    units_excluded: tuple[str, ...]
    units_sparsities: tuple[float, ...]
    has_batchnorm: bool

    def accuracy(self, model: nn.Module) -> float:
        """Return the fraction of test samples that the model gets right."""
        model.eval()
        right = total = 0
        with torch.inference_mode():
            for inputs, targets in self.test:
                outputs = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
                right += int((logits_of(outputs).argmax(dim=1) == targets).sum())
                total += len(targets)
        return right / total
