"""Measure what keeping a pruned network pruned costs: ResNet-20 on one CPU thread, batches of 128 images."""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from worker.models.resnet import ResNet, ResNetParams
from worker.pruning import Pruner

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 12
OPTIMIZERS = {
    "SGD, momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}


def main() -> None:
    torch.set_num_threads(1)
    print("optimizer      training step  hooks in optimizer.step()  pruner.step()  a round of pruning")
    for name, make in OPTIMIZERS.items():
        step_s, hooks_s, hold_s, round_s = measure(make)
        kept = f"{1e3 * hooks_s:.2f} ms ({hooks_s / step_s:.2%})"
        held = f"{1e3 * hold_s:.2f} ms ({hold_s / step_s:.2%})"
        print(f"{name:13}  {1e3 * step_s:10.0f} ms  {kept:>25}  {held:>13}  {1e3 * round_s:15.0f} ms")


def measure(make: Callable[..., torch.optim.Optimizer]) -> tuple[float, float, float, float]:
    """Return medians in seconds: a whole training step, what pruning adds to it twice, a round."""
    torch.manual_seed(0)
    model = ResNet(ResNetParams(), blocks=3, width=16)
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    optimizer = make(model.parameters())
    pruner = Pruner(model, {"target": {"value": 0.7}})
    round_s = timed(pruner.update)
    step_s, hold_s = [], []
    dense_s, hooked_s = [], []
    for _ in range(STEPS):
        step_s.append(timed(lambda: nn.functional.cross_entropy(model(images), labels).backward()))
        # The same gradients with and without hooks, right after each other.
        dense_s.append(timed(optimizer.step))
        pruner.attach(optimizer)
        hooked_s.append(timed(optimizer.step))
        hold_s.append(timed(pruner.step))
        pruner.detach(optimizer)
        optimizer.zero_grad()
    hooks_s = max(0.0, median(hooked_s) - median(dense_s))
    return median(step_s) + median(dense_s), hooks_s, median(hold_s), round_s


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
