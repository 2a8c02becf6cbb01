"""Turn rows of uploaded models and datasets into what a runner reads: local files with their digests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.core.tables import Dataset, Model
from worker.protocol import DatasetInput, ModelInput

# Gives the path of a digest's bytes on this machine, checked.
Place = Callable[[str], Path]


def model_input(model: Model, place: Place) -> ModelInput:
    files, sha256 = _local_files(model.files, place)
    architecture = model.manifest.get("architecture") or {}
    return ModelInput(format=model.format, architecture=architecture, files=files, sha256=sha256)


def dataset_input(dataset: Dataset, place: Place) -> DatasetInput:
    files, sha256 = _local_files(dataset.files, place)
    return DatasetInput(
        format=dataset.format,
        task=dataset.task,
        layout=dataset.manifest.get("layout"),
        normalize=dataset.manifest.get("normalize"),
        columns=dataset.manifest.get("columns"),
        max_tokens=dataset.manifest.get("max_tokens"),
        block_tokens=dataset.manifest.get("block_tokens"),
        files=files,
        sha256=sha256,
    )


def _local_files(
    files: dict[str, Any],  # Any: {name, sha256, size_bytes} as the API wrote it
    place: Place,
) -> tuple[dict[str, Path], dict[str, str]]:
    sha256 = {role: file["sha256"] for role, file in files.items()}
    return {role: place(digest) for role, digest in sha256.items()}, sha256
