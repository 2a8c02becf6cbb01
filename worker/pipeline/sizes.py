"""Measure what a cut model comes to: its products, the bytes of its file, its milliseconds."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from app.core.errors import PruningRefused
from app.core.spec import Latency
from worker.formats.registry import LoadedModel, read_model
from worker.measure.latency import measure_p50_ms, time_by_turns
from worker.measure.macs import count_macs
from worker.models.registry import Network
from worker.pipeline.job import Job
from worker.pruning.removal.file_size import count_file_bytes
from worker.pruning.removal.shrinking import Measure, Shrunk


def list_measures(job: Job, loaded: LoadedModel) -> dict[str, Measure]:
    """Return how the metrics of a structure's target are measured, of the loaded model as it is cut.

    Raises PruningRefused where the target is a latency on a device that this worker has not.
    """
    blank = loaded.network.inputs.blank(1, job.device)
    measures: dict[str, Measure] = {
        "macs": lambda module: float(count_macs(module, blank).total),
        "size_bytes": _follow_file(loaded),
    }
    settings = job.spec.evaluation.latency
    if settings is not None and job.spec.structure and job.spec.structure.target.metric == "latency_ms":
        measures["latency_ms"] = _time(loaded.network, settings)
    return measures


def time_again(job: Job, network: Network, shrunk: Shrunk) -> Shrunk:
    """Time the cut model by turns with the whole one: what else the machine did meanwhile slows down both."""
    settings = job.spec.evaluation.latency
    if settings is None:  # refused with the spec
        return shrunk
    device = torch.device(settings.device)
    whole = read_model(job.given.model).network.module.to(device)
    batch = network.inputs.blank(settings.batch_size, device)
    timings = time_by_turns(whole, _bring(network.module, device), batch, repeats=settings.repeats)
    before, after = (float(np.median(times)) for times in (timings.dense_ms, timings.pruned_ms))
    return replace(shrunk, before=before, after=after)


def _time(network: Network, settings: Latency) -> Measure:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise PruningRefused(
            "the target latency_ms is measured where evaluation.latency says, on cuda, and this worker has "
            "no such device; give resources.device cuda too, or evaluation.latency.device cpu"
        )
    device = torch.device(settings.device)
    batch = network.inputs.blank(settings.batch_size, device)
    return lambda module: measure_p50_ms(_bring(module, device), batch, repeats=settings.repeats)


def _bring(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a module on a device: a copy where it lies on another, so that its parameters stay there."""
    if next(module.parameters()).device.type == device.type:
        return module
    return deepcopy(module).to(device)


def _follow_file(loaded: LoadedModel) -> Measure:
    """Count the bytes of the file that a cut model is exported as: the upload's tensors, under its names."""
    # They stay the same objects when they are cut, and get other names behind a block that is gone.
    state = loaded.network.module.state_dict(keep_vars=True)
    written = Counter(id(state[name]) for name in loaded.tensor_names)
    uploaded = set(loaded.tensor_names)

    def measure_bytes(module: nn.Module) -> float:
        due, tensors = written.copy(), {}
        now = module.state_dict(keep_vars=True)
        # Of the names of a tied weight, the one that the upload has comes first.
        for name in sorted(now, key=lambda name: name not in uploaded):
            if due[id(now[name])] > 0:
                due[id(now[name])] -= 1
                tensors[loaded.names_in_file.get(name, name)] = now[name]
        return float(count_file_bytes(tensors))

    return measure_bytes
