"""Turn rows of uploaded models and datasets into what a runner reads: local files with their digests."""

from pathlib import Path
from typing import Any

from app.core.storage import LocalStore
from app.core.tables import Dataset, Model
from worker.protocol import DatasetInput, ModelInput


def model_input(model: Model, store: LocalStore) -> ModelInput:
    files, sha256 = _local_files(model.files, store)
    architecture = model.manifest.get("architecture") or {}
    return ModelInput(format=model.format, architecture=architecture, files=files, sha256=sha256)


def dataset_input(dataset: Dataset, store: LocalStore) -> DatasetInput:
    files, sha256 = _local_files(dataset.files, store)
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
    store: LocalStore,
) -> tuple[dict[str, Path], dict[str, str]]:
    sha256 = {role: file["sha256"] for role, file in files.items()}
    return {role: store.local_path(digest) for role, digest in sha256.items()}, sha256
