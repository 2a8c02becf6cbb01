"""Networks with fresh weights, to be uploaded for what trains from scratch."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.follow import Json, Upload
from worker.models.registry import build


def prepare_untrained(folder: Path, name: str, params: Json, *, seed: int = 0) -> Upload:
    """Write fresh weights of a built-in architecture, drawn with `seed`."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture: Json = {"library": "secateur", "name": name, "params": params}
    torch.manual_seed(seed)
    state = build(architecture).module.state_dict()
    weights = folder / f"{name}-seed{seed}.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, weights)
    return Upload(
        {"weights": weights}, {"name": f"{name}, fresh weights {seed}", "architecture": architecture}
    )
