"""Check an uploaded model in depth: names, shapes, finite weights; and say what it is made of."""

from pathlib import Path
from typing import Any

from worker.atomic import write_atomically
from worker.formats.registry import read_model
from worker.measure.latency import measure_forward_ms
from worker.measure.model import measure_model
from worker.models.inputs import ImageInput, TextInput
from worker.pipeline.tracing import describe_groups
from worker.protocol import OUTPUT_FOLDER, OUTPUT_NAME, CheckInput, CheckOutput, ModelGroup, ModelLayer
from worker.pruning.layers import Layer, find_layers

# A text of 128 tokens costs a network of today about what a hundred small images do.
_BATCH_SIZES = {ImageInput: 64, TextInput: 2}


def check_model(work: Path, given: CheckInput) -> None:
    """Read the model with every check that its format has, and leave what was found in WORK/output."""
    loaded = read_model(given.model)
    network = loaded.network
    measured = measure_model(network)
    layers = find_layers(network.module)
    groups, untraceable = describe_groups(network)
    found = CheckOutput(
        parameters=measured.parameters,
        prunable_parameters=sum(layer.numel for layer in layers if layer.is_prunable),
        macs=measured.macs,
        input_signature={
            **network.inputs.describe(),
            "classes": network.outputs,
            "tasks": list(network.tasks),
        },
        forward_ms=measure_forward_ms(network, batch_size=_BATCH_SIZES[type(network.inputs)]),
        warnings=loaded.warnings,
        layers=tuple(
            ModelLayer(
                name=layer.name,
                type=layer.type,
                shape=layer.shape,
                parameters=layer.numel,
                macs=measured.tensors[layer.name].macs,
                prunable=layer.is_prunable,
                why_not=layer.why_not,
                **_describe_outputs(layer, groups, untraceable),
            )
            for layer in layers
        ),
        groups=groups,
    )
    (work / OUTPUT_FOLDER).mkdir(exist_ok=True)
    write_atomically(work / OUTPUT_FOLDER / OUTPUT_NAME, found.model_dump_json().encode())


def _describe_outputs(
    layer: Layer, groups: tuple[ModelGroup, ...], untraceable: str | None
) -> dict[str, Any]:  # Any: fields of ModelLayer
    """Say which group makes a layer's outputs, what else goes with them, and why they may have to stay."""
    for group in groups:
        tensors = [cut.tensor for cut in group.cuts if cut.tensor != layer.name]
        if any(cut.tensor == layer.name and cut.axis == _find_output_axis(layer) for cut in group.cuts):
            others = tuple(dict.fromkeys(tensors))
            return {"group": group.name, "cut_with": others, "cut_why_not": group.why_not}
    return {"group": None, "cut_why_not": untraceable or "is in no group that a forward pass shows"}


def _find_output_axis(layer: Layer) -> int:
    is_embedding = layer.type == "Embedding"
    return 1 if layer.is_transposed or is_embedding else 0
