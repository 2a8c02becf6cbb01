"""Look through a network for what can be cut out of it, on samples drawn by chance."""

import torch
from torch import Tensor

from worker.measure.macs import count_macs_within
from worker.models.inputs import compute_logits, draw_inputs
from worker.models.registry import Network
from worker.protocol import GroupCut, ModelBlock, ModelGroup
from worker.pruning.errors import Untraceable
from worker.pruning.removal.groups import find_groups
from worker.pruning.removal.queries import find_query_groups
from worker.pruning.removal.stacks import find_stacks, list_undeclared
from worker.pruning.removal.tracer import Axis


def describe_groups(network: Network) -> tuple[tuple[ModelGroup, ...], str | None]:
    """Return the groups of a network on the CPU, or none and the reason why it cannot be traced.

    They are what the graph proves; a job tries each of them before it cuts.
    """
    inputs = draw_inputs(network.inputs, torch.device("cpu"))
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
        for group in (*groups, *find_query_groups(network.module))
    )
    return found, None


def describe_blocks(network: Network) -> tuple[ModelBlock, ...]:
    """Return the blocks of a network on the CPU, in the order of their stacks.

    They are judged by the shapes of their hidden states; a job tries each of them before it cuts.
    """
    module, device = network.module, torch.device("cpu")
    inputs = draw_inputs(network.inputs, device)
    stacks = find_stacks(module, lambda one: compute_logits(one, inputs), list_undeclared(module))
    names = [f"{stack.name}.{number}" for stack in stacks for number in range(stack.blocks)]
    macs = count_macs_within(module, network.inputs.blank(1, device), names)
    return tuple(
        ModelBlock(
            name=name,
            stack=stack.name,
            parameters=sum(parameter.numel() for parameter in module.get_submodule(name).parameters()),
            macs=macs[name],
            why_not=stack.why_not.get(number),
        )
        for stack in stacks
        for number in range(stack.blocks)
        for name in [f"{stack.name}.{number}"]
    )
