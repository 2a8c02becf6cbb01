"""Trace a network for what can be cut out of it, on samples drawn by chance."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.models.inputs import ImageInput, Inputs
from worker.models.registry import Network
from worker.protocol import GroupCut, ModelGroup
from worker.pruning.errors import Untraceable
from worker.pruning.removal.groups import find_groups
from worker.pruning.removal.tracer import Axis

_SAMPLES = 2
_TOKENS = 16


def draw_inputs(network: Network, device: torch.device) -> Inputs:
    """Draw two samples, short ones of text: blank ones would hide faults."""
    generator = torch.Generator().manual_seed(0)
    blank = network.inputs.blank(_SAMPLES, device)
    if isinstance(network.inputs, ImageInput):
        assert isinstance(blank, Tensor)
        return torch.randn(blank.shape, generator=generator).to(device)
    assert isinstance(blank, Mapping)
    short = {name: tensor[:, :_TOKENS] for name, tensor in blank.items()}
    tokens = torch.randint(0, network.inputs.vocabulary, short["input_ids"].shape, generator=generator)
    return {**short, "input_ids": tokens.to(device)}


def describe_groups(network: Network) -> tuple[tuple[ModelGroup, ...], str | None]:
    """Return the groups of a network on the CPU, or none and the reason why it cannot be traced.

    They are what the graph proves; a job tries each of them before it cuts.
    """
    inputs = draw_inputs(network, torch.device("cpu"))
    try:
        if isinstance(inputs, Tensor):
            groups = find_groups(network.module, inputs)
        else:
            groups = find_groups(network.module, **inputs)
    except Untraceable as error:
        return (), str(error)
    found = tuple(
        ModelGroup(
            name=group.name,
            kind=group.kind,
            units=group.units,
            why_not=group.why_not,
            cuts=tuple(
                GroupCut(tensor=cut.where.tensor, axis=cut.where.axis, positions=cut.index.shape[1])
                for cut in group.cuts
                if isinstance(cut.where, Axis)
            ),
        )
        for group in groups
    )
    return found, None
