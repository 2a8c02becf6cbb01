"""`python -m benchmarks.neuron_damage`: which cheap score of MiniLM's feed-forward neurons tells their worth?

Prints the rank correlation of each score with the first-order damage of taking a neuron out, the sum over
train phrases of |activation x gradient|, as a mean over the six layers.
"""

import sys
from collections.abc import Mapping
from functools import partial
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.minilm import minilm_task
from benchmarks.task import Task


def main() -> int:
    """Print one line a score; returns 2 when the data is not there."""
    torch.set_num_threads(1)
    try:
        task = minilm_task(find_data_folder())
    except NoBenchmarkData as error:
        print(f"neuron_damage: {error}", file=sys.stderr)
        return 2
    model = task.load()
    layers = model.get_submodule("bert.encoder.layer").children()
    incoming = [
        layer.get_submodule("intermediate.dense").get_parameter("weight").detach() for layer in layers
    ]
    damage, loudness = _run(task, model)
    scores = {
        "norm of the incoming weights": [weight.norm(dim=1) for weight in incoming],
        "distance to the other neurons (fpgm)": [
            torch.cdist(weight, weight).sum(dim=1) for weight in incoming
        ],
        "mean |activation|": loudness,
    }
    for name, of_layers in scores.items():
        print(f"{name}: {mean(map(_rank_correlation, of_layers, damage)):+.2f}")
    return 0


def _run(task: Task, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the damage and the summed |activation| of each layer's neurons, float32 [neurons]."""
    outputs: dict[int, Tensor] = {}
    layers = list(model.get_submodule("bert.encoder.layer").children())
    for i, layer in enumerate(layers):
        layer.get_submodule("intermediate").register_forward_hook(partial(_keep, outputs, i))
    damage, loudness = ([torch.zeros(1)] * len(layers) for _ in range(2))
    for inputs, targets in task.calibration:
        assert isinstance(inputs, Mapping)  # a text, by name
        loss = functional.cross_entropy(model(**inputs).logits, targets, reduction="sum")
        torch.autograd.backward(loss)
        real = inputs["attention_mask"].unsqueeze(-1)  # [b, t, 1]
        for i, output in outputs.items():
            assert output.grad is not None  # retained by the hook
            damage[i] = damage[i] + (output * output.grad * real).sum(dim=1).abs().sum(dim=0).detach()
            loudness[i] = loudness[i] + (output.abs() * real).sum(dim=(0, 1)).detach()
    return damage, loudness


def _keep(
    outputs: dict[int, Tensor], index: int, _module: nn.Module, _inputs: object, output: Tensor
) -> None:
    output.retain_grad()
    outputs[index] = output  # [b, t, neurons]


def _rank_correlation(one: Tensor, two: Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().float() for values in (one, two)])
    return float(torch.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    sys.exit(main())
