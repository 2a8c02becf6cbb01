"""Check the labels of a split against what a network answers."""

import torch

from app.core.errors import DatasetMismatch, LabelsOutOfRange


def check_labels(labels: torch.Tensor, name: str, *, outputs: int) -> None:
    """Refuse labels [n] that a network of that many outputs cannot answer; floats are numbers, not classes.

    Raises DatasetMismatch or LabelsOutOfRange, naming the split.
    """
    if labels.is_floating_point():
        if outputs != 1:
            raise DatasetMismatch(
                f"split {name} has numbers as labels, the model tells {outputs} classes apart"
            )
        return
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < outputs:
        return
    if low >= 0 and _are_classes(labels):
        raise DatasetMismatch(f"split {name} has {high + 1} classes, the model tells {outputs} apart")
    wrong = (labels < 0) | (labels >= outputs)
    first = int(wrong.nonzero()[0])
    raise LabelsOutOfRange(
        f"split {name} has {int(wrong.sum())} labels outside 0..{outputs - 1}; "
        f"the first is {int(labels[first])} at index {first}"
    )


def _are_classes(labels: torch.Tensor) -> bool:
    # Labels are the classes of another problem when none is missing and none is a single slip.
    if int(labels.max()) >= len(labels):
        return False
    return bool((torch.bincount(labels) > 1).all())
