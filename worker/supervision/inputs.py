"""Turn rows of uploaded models and datasets into what a runner reads: local files with their digests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.core.errors import SpecUnknown
from app.core.tables import Dataset, Model
from worker.protocol import DatasetInput, ModelInput
from worker.version import code_version

# Gives the path of a digest's bytes on this machine, checked.
Place = Callable[[str], Path]


# What a manifest says that the row says too, or that the API alone reads.
_IN_THE_ROW = {"name", "format", "task", "splits"}
_NAMED = 3


def model_input(model: Model, place: Place) -> ModelInput:
    """Describe a model to a runner; raises SpecUnknown for a manifest of another version."""
    files, sha256 = _local_files(model.files, place)
    given = {**_read_on(model.manifest), "format": model.format, "files": files, "sha256": sha256}
    given["architecture"] = given.get("architecture") or {}
    try:
        return ModelInput.model_validate(given)
    except ValidationError as error:
        raise describe_unknown(error, "the model's manifest") from error


def dataset_input(dataset: Dataset, place: Place) -> DatasetInput:
    """Describe a dataset to a runner; raises SpecUnknown for a manifest of another version."""
    files, sha256 = _local_files(dataset.files, place)
    row = {"format": dataset.format, "task": dataset.task, "files": files, "sha256": sha256}
    try:
        return DatasetInput.model_validate(_read_on(dataset.manifest) | row)
    except ValidationError as error:
        raise describe_unknown(error, "the dataset's manifest") from error


def describe_unknown(error: ValidationError, where: str) -> SpecUnknown:
    """Any API has validated it: what is not valid here was written by one of another version."""
    found = sorted({".".join(map(str, one["loc"])) for one in error.errors()})
    return SpecUnknown(
        f"this worker runs version {code_version()}, which does not know {', '.join(found[:_NAMED])} "
        f"as {where} has it; the job waits for a worker of the version that accepted it"
    )


def _read_on(manifest: dict[str, Any]) -> dict[str, Any]:  # Any: JSON as the API wrote it
    return {name: value for name, value in manifest.items() if name not in _IN_THE_ROW}


def _local_files(
    files: dict[str, Any],  # Any: {name, sha256, size_bytes} as the API wrote it
    place: Place,
) -> tuple[dict[str, Path], dict[str, str]]:
    sha256 = {role: file["sha256"] for role, file in files.items()}
    return {role: place(digest) for role, digest in sha256.items()}, sha256
