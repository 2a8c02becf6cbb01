"""What the deep check finds in networks that are built in."""

import torch

from app.core.tables import Model
from worker.measure.model import measure_model
from worker.models.registry import build
from worker.pipeline.tracing import describe_blocks, describe_groups
from worker.pruning.layers import find_layers
from worker.pruning.removal.file_size import count_file_bytes


def inspect(name: str) -> tuple[torch.nn.Module, dict, Model]:
    """Return a network and the model row that its deep check would have left."""
    network = build({"library": "secateur", "name": name, "params": {}})
    measured = measure_model(network)
    groups, _ = describe_groups(network)
    layers = [
        {
            "name": layer.name,
            "type": layer.type,
            "shape": list(layer.shape),
            "parameters": layer.numel,
            "macs": measured.tensors[layer.name].macs,
            "prunable": layer.is_prunable,
            "why_not": layer.why_not,
        }
        for layer in find_layers(network.module)
    ]
    found = {
        "layers": layers,
        "groups": [g.model_dump(mode="json") for g in groups],
        "blocks": [block.model_dump(mode="json") for block in describe_blocks(network)],
        "forward_ms": 0.5,
    }
    model = Model(
        status="ready",
        inspection=found,
        parameters=measured.parameters,
        macs=measured.macs,
        size_bytes=count_file_bytes(network.module.state_dict()),
    )
    return network.module, found, model
