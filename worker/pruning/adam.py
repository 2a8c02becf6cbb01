"""Adam on tensors that no module owns: scores that are learned beside the weights."""

import torch
from torch import Tensor

from worker.pruning.protocols import Memory

_MEAN_DECAY, _SQUARE_DECAY = 0.9, 0.999
# Adam's usual 1e-8 is as large as the products of a gradient and a weight are.
_EPSILON = 1e-12


def make_moments(weight: Tensor) -> Memory:
    """Return what Adam remembers of scores of a weight's shape, float32, before its first step."""
    zeros = {name: torch.zeros_like(weight, dtype=torch.float32) for name in ("mean", "square")}
    return {**zeros, "steps": torch.zeros((), dtype=torch.float32, device=weight.device)}


@torch.no_grad()
def take_step(scores: Tensor, slope: Tensor, memory: Memory, *, rate: float) -> None:
    """Move scores against a slope, float32 of their shape, in place (Kingma and Ba 2015, arXiv:1412.6980)."""
    mean, square = memory["mean"], memory["square"]
    memory["steps"] += 1.0
    steps = memory["steps"].item()
    mean.lerp_(slope, 1.0 - _MEAN_DECAY)
    square.mul_(_SQUARE_DECAY).addcmul_(slope, slope, value=1.0 - _SQUARE_DECAY)
    size = (square / (1.0 - _SQUARE_DECAY**steps)).sqrt_().add_(_EPSILON)
    scores.addcdiv_(mean, size, value=-rate / (1.0 - _MEAN_DECAY**steps))
