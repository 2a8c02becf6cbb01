"""Count everything about one model that needs no data: parameters, zeros, MACs, memory."""

from collections import Counter

import torch
from pydantic import BaseModel, ConfigDict

from worker.measure.macs import count_effective_macs, count_macs
from worker.measure.memory import measure_peak_bytes, sum_bytes
from worker.models.registry import Network


class MeasuredTensor(BaseModel):
    """One parameter: `macs` are those of its layer for a layer's weight, 0 for the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    nonzero: int
    macs: int

    @property
    def parameters(self) -> int:
        return int(torch.Size(self.shape).numel())


class MeasuredModel(BaseModel):
    """One model in numbers; `tensors` holds every parameter by its name in the state dict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensors: dict[str, MeasuredTensor]
    macs: int
    effective_macs: int
    weights_bytes: int
    peak_inference_bytes: int

    @property
    def parameters(self) -> int:
        return sum(tensor.parameters for tensor in self.tensors.values())

    @property
    def nonzero(self) -> int:
        return sum(tensor.nonzero for tensor in self.tensors.values())


def measure_model(network: Network) -> MeasuredModel:
    """Count one model, running it once on a blank sample."""
    weights = dict(network.module.named_parameters())
    # A tied weight has several names, and costs whatever its layers cost together.
    every_name = dict(network.module.named_parameters(remove_duplicate=False))
    blank = network.inputs.blank(1, next(network.module.parameters()).device)
    macs = count_macs(network.module, blank)
    by_weight: Counter[int] = Counter()
    for name, count in macs.by_weight.items():
        by_weight[id(every_name[name])] += count
    return MeasuredModel(
        tensors={
            name: MeasuredTensor(
                shape=tuple(weight.shape),
                nonzero=int(torch.count_nonzero(weight)),
                macs=by_weight[id(weight)],
            )
            for name, weight in weights.items()
        },
        macs=macs.total,
        effective_macs=count_effective_macs(macs, every_name),
        weights_bytes=sum_bytes([*network.module.parameters(), *network.module.buffers()]),
        peak_inference_bytes=measure_peak_bytes(network.module, blank),
    )
