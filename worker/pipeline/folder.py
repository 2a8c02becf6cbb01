"""A stage's folder: result files first, then the manifest that makes them count.

Files are flushed to the disk before the manifest takes its name, so a manifest that stands vouches for all
of them, wherever the process was killed. No file holds a pickle.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors.torch import load_file, save_file

from app.core.states import Stage
from worker.atomic import flush, write_atomically
from worker.measure.size import digest_file
from worker.training.checkpoint import Checkpoints

MANIFEST_NAME = "manifest.json"
Data = dict[str, JsonValue]


class Manifest(BaseModel):
    """What a finished stage was made from, which files it wrote (by SHA-256), and what it said at its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    inputs: dict[str, str]
    files: dict[str, str]
    data: Data


class StageFolder:
    """WORK/stages/<stage>: written by its stage alone, read by the later ones."""

    def __init__(self, work: Path, stage: Stage) -> None:
        self.stage = stage
        self.path = work / "stages" / stage
        self.manifest_path = self.path / MANIFEST_NAME
        # Beside the folder, which is cleared when the stage starts anew: checkpoints outlive that.
        self._checkpoints_path = work / "checkpoints" / stage
        self._inputs: dict[str, str] = {}

    def clear(self) -> None:
        """Throw away what an earlier attempt left, the manifest first; its checkpoints stay."""
        self.manifest_path.unlink(missing_ok=True)
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)

    def finish(self, inputs: Mapping[str, str], data: Data) -> None:
        """Flush every file of the folder, then put the manifest in place."""
        names = sorted(path.name for path in self.path.iterdir())
        for name in names:
            flush(self.path / name)
        files = {name: digest_file(self.path / name) for name in names}
        manifest = Manifest(stage=self.stage, inputs=dict(inputs), files=files, data=data)
        write_atomically(self.manifest_path, manifest.model_dump_json(indent=1).encode())

    def begin(self, inputs: Mapping[str, str]) -> None:
        """Start the stage anew, from these inputs."""
        self.clear()
        self._inputs = dict(inputs)

    def checkpoints(self, name: str, *, interval_s: float) -> Checkpoints:
        """Return the checkpoints of one training of the stage; only those from the same inputs count."""
        return Checkpoints(self._checkpoints_path / name, self._inputs, interval_s=interval_s)

    def drop_checkpoints(self) -> None:
        """Throw the checkpoints away: once the manifest stands, nothing needs them."""
        shutil.rmtree(self._checkpoints_path, ignore_errors=True)

    def read_standing(self, inputs: Mapping[str, str]) -> Manifest | None:
        """Return the manifest when it stands: same inputs, every file there with its digest."""
        try:
            manifest = Manifest.model_validate_json(self.manifest_path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        if manifest.stage != self.stage or manifest.inputs != dict(inputs):
            return None
        for name, sha256 in manifest.files.items():
            path = self.path / name
            if not path.is_file() or digest_file(path) != sha256:
                return None
        return manifest

    def read_data(self) -> Data:
        """Return what the stage said at its end, which must have come."""
        return Manifest.model_validate_json(self.manifest_path.read_bytes()).data

    def write_json(self, name: str, value: JsonValue) -> None:
        """Write a JSON file with sorted keys."""
        (self.path / name).write_text(json.dumps(value, sort_keys=True, allow_nan=False))

    def read_json(self, name: str) -> JsonValue:
        """Read a JSON file of this stage."""
        value: JsonValue = json.loads((self.path / name).read_bytes())
        return value

    def write_tensors(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write tensors as safetensors: the same tensors give the same bytes."""
        write_tensors(self.path / name, tensors)

    def read_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Read a safetensors file of this stage onto the CPU."""
        return load_file(self.path / name)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors by name as safetensors: the same tensors give the same bytes."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    # safetensors refuses tensors that share memory; tied weights are written under each of their names.
    storages = Counter(_storage_of(tensor) for tensor in plain.values())
    plain = {
        n: tensor.clone() if storages[_storage_of(tensor)] > 1 else tensor for n, tensor in plain.items()
    }
    # One metadata key: safetensors writes several in no fixed order. `format` is what loaders look for.
    save_file(plain, path, metadata={"format": "pt"})


def _storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
