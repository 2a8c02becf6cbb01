"""Check an uploaded model in depth: names, shapes, finite weights; and say what it is made of."""

from pathlib import Path
from typing import Any

from worker.atomic import write_atomically
from worker.formats.registry import read_model
from worker.measure.latency import measure_forward_ms
from worker.measure.model import measure_model
from worker.pipeline.tracing import describe_blocks, describe_groups
from worker.protocol import (
    OUTPUT_FOLDER,
    OUTPUT_NAME,
    CheckInput,
    CheckOutput,
    ModelBlock,
    ModelGroup,
    ModelLayer,
)
from worker.pruning.layers import Layer, find_layers


def check_model(work: Path, given: CheckInput) -> None:
    """Read the model with every check that its format has, and leave what was found in WORK/output."""
    loaded = read_model(given.model)
    network = loaded.network
    measured = measure_model(network)
    layers = find_layers(network.module)
    groups, untraceable = describe_groups(network)
    blocks = describe_blocks(network)
    found = CheckOutput(
        parameters=measured.parameters,
        prunable_parameters=sum(layer.numel for layer in layers if layer.is_prunable),
        macs=measured.macs,
        input_signature={
            **network.inputs.describe(),
            "classes": network.outputs,
            "tasks": list(network.tasks),
        },
        forward_ms=measure_forward_ms(network, counted=measured),
        warnings=loaded.warnings,
        layers=tuple(
            ModelLayer(
                name=layer.name,
                aliases=layer.aliases,
                type=layer.type,
                shape=layer.shape,
                parameters=layer.numel,
                macs=measured.tensors[layer.name].macs,
                prunable=layer.is_prunable,
                why_not=layer.why_not,
                **_describe_outputs(layer, groups, untraceable),
                **_describe_block(layer, blocks),
            )
            for layer in layers
        ),
        groups=groups,
        blocks=blocks,
    )
    (work / OUTPUT_FOLDER).mkdir(exist_ok=True)
    write_atomically(work / OUTPUT_FOLDER / OUTPUT_NAME, found.model_dump_json().encode())


def _describe_outputs(
    layer: Layer, groups: tuple[ModelGroup, ...], untraceable: str | None
) -> dict[str, Any]:  # Any: fields of ModelLayer
    """Say which group makes a layer's outputs, what else goes with them, and why they may have to stay.

    Of several it is the first that can go.
    """
    for group in sorted(groups, key=lambda group: group.why_not is not None):
        tensors = [cut.tensor for cut in group.cuts if cut.tensor != layer.name]
        if any(cut.tensor == layer.name and cut.axis == layer.output_dim for cut in group.cuts):
            others = tuple(dict.fromkeys(tensors))
            return {"group": group.name, "cut_with": others, "cut_why_not": group.why_not}
    return {"group": None, "cut_why_not": untraceable or "is in no group that a forward pass shows"}


def _describe_block(
    layer: Layer, blocks: tuple[ModelBlock, ...]
) -> dict[str, Any]:  # Any: fields of ModelLayer
    """Say in which whole block a layer lies, and why that may have to stay."""
    for block in blocks:
        if layer.name.startswith(f"{block.name}."):
            return {"block": block.name, "block_why_not": block.why_not}
    return {"block": None}
