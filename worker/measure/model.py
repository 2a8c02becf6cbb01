"""Count everything about one model that needs no data: parameters, zeros, MACs, memory."""

from collections.abc import Iterator, Mapping

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from worker.measure.macs import count_effective_macs, count_macs
from worker.measure.memory import measure_peak_bytes, sum_bytes
from worker.models.registry import Network


class MeasuredTensor(BaseModel):
    """One parameter: `macs` are those of its layers for a layer's weight, 0 for the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    nonzero: int
    macs: int

    @property
    def parameters(self) -> int:
        return int(torch.Size(self.shape).numel())


class MeasuredModel(BaseModel):
    """One model in numbers; `tensors` holds every parameter once, by its first name in the state dict."""

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
    weights = dict(network.module.named_parameters(remove_duplicate=False))
    blank = network.inputs.blank(1, next(network.module.parameters()).device)
    macs = count_macs(network.module, blank)
    return MeasuredModel(
        tensors={
            names[0]: MeasuredTensor(
                shape=tuple(weight.shape),
                nonzero=int(torch.count_nonzero(weight)),
                macs=sum(macs.by_weight.get(name, 0) for name in names),
            )
            for names, weight in _name_each_once(weights)
        },
        macs=macs.total,
        effective_macs=count_effective_macs(macs, weights),
        weights_bytes=sum_bytes(
            [*(weight for _, weight in _name_each_once(weights)), *network.module.buffers()]
        ),
        peak_inference_bytes=measure_peak_bytes(network.module, blank),
    )


def _name_each_once(weights: Mapping[str, nn.Parameter]) -> Iterator[tuple[list[str], nn.Parameter]]:
    """Yield every parameter with all its names, the first as the state dict has it.

    Tied is what lies in the same memory, whether it is one parameter or two over one storage.
    """
    tied: dict[object, list[str]] = {}
    for name, weight in weights.items():
        # Nothing lies nowhere: an empty tensor is tied to itself alone.
        place = (weight.data_ptr(), weight.shape, weight.stride()) if weight.numel() else id(weight)
        tied.setdefault(place, []).append(name)
    return ((names, weights[names[0]]) for names in tied.values())
