"""Where the time of a network goes, layer by layer, dense and cut by turns.

Leaf modules are timed by hooks; what no leaf does (sums, activations called as functions, attention) is
one row.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from worker.measure.macs import count_macs
from worker.models.inputs import Inputs, compute_logits

_RUNS = 5
_REST = "between the layers"


@dataclass(frozen=True)
class Share:
    """One layer's milliseconds of a batch, and its products of one sample."""

    name: str
    what: str
    dense_ms: float
    cut_ms: float
    dense_macs: int
    cut_macs: int

    def behind_ms(self, ratio: float) -> float:
        """Return how much longer it takes than if its time had shrunk by the ratio of the whole."""
        return self.cut_ms - self.dense_ms / ratio


def time_layers(dense: nn.Module, cut: nn.Module, batch: Inputs) -> list[Share]:
    """Return every layer's share, in the order of the modules, medians of some runs by turns."""
    one = {n: t[:1] for n, t in batch.items()} if isinstance(batch, Mapping) else batch[:1]
    macs = [count_macs(model, one) for model in (dense, cut)]
    runs: tuple[dict[str, list[float]], dict[str, list[float]]] = (defaultdict(list), defaultdict(list))
    for number in range(_RUNS + 1):
        for model, times in zip((dense, cut), runs, strict=True):
            for name, ms in _time_once(model, batch).items():
                if number:  # the first is a warm-up
                    times[name].append(ms)
    kinds = {name: type(module).__name__ for name, module in dense.named_modules()} | {_REST: ""}
    return [
        Share(
            name,
            _describe(kinds[name], dense, cut, name),
            median(runs[0][name]),
            median(runs[1][name]),
            *(one.rest if name == _REST else one.by_weight.get(f"{name}.weight", 0) for one in macs),
        )
        for name in runs[0]
    ]


def _describe(kind: str, dense: nn.Module, cut: nn.Module, name: str) -> str:
    shapes = []
    for model in (dense, cut):
        weight = dict(model.named_parameters()).get(f"{name}.weight")
        shapes.append("x".join(map(str, weight.shape)) if isinstance(weight, Tensor) else "")
    return f"{kind} {shapes[0]} -> {shapes[1]}" if shapes[0] else kind


def _time_once(model: nn.Module, batch: Inputs) -> dict[str, float]:
    times: dict[str, float] = defaultdict(float)
    started: list[float] = []

    def begin(module: nn.Module, args: object) -> None:
        started.append(time.perf_counter())

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in model.named_modules():
            if next(module.children(), None) is None:

                def end(module: nn.Module, args: object, output: object, name: str = name) -> None:
                    times[name] += (time.perf_counter() - started.pop()) * 1e3

                hooks.callback(module.register_forward_pre_hook(begin).remove)
                hooks.callback(module.register_forward_hook(end).remove)
        start = time.perf_counter()
        compute_logits(model, batch)
        total = (time.perf_counter() - start) * 1e3
    return {**times, _REST: total - sum(times.values())}
