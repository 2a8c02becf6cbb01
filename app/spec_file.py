"""Spec files of the command line: a job spec in YAML or JSON that may name local files to upload.

Instead of `model_id` there may be `model: {path, architecture, name?, format?}`, where the path of a folder
means a model of transformers (`file` is another word for `path`), and an architecture may be the path of the
`architecture.json` that a job left; instead of `dataset_id` there may be
`dataset: {train: path, test: path, task?, format?, name?, …}` with what a manifest has; the splits may also
stand under `splits`. Paths are relative to the spec file.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_SPLITS = ("train", "validation", "test")
_JSON_SCALARS = (str, int, float, bool, type(None))
Json = dict[str, Any]  # Any: JSON as the user wrote it; the service checks it


class InvalidSpecFile(Exception):
    """The spec file cannot be read, or names a file that is not there."""


@dataclass(frozen=True)
class ModelFile:
    path: Path
    manifest: Json


@dataclass(frozen=True)
class DatasetFiles:
    splits: dict[str, Path]
    manifest: Json


@dataclass(frozen=True)
class SpecFile:
    """What a spec file says: the spec without its local parts, and what must be uploaded first."""

    spec: Json
    model: ModelFile | None
    dataset: DatasetFiles | None


def read_spec_file(path: Path) -> SpecFile:
    """Read a spec file and find every local file that it names; raises InvalidSpecFile."""
    spec = _parse(path, expected="model, dataset and recipe")
    model = _take_mapping(spec, "model")
    dataset = _take_mapping(spec, "dataset")
    for name, local in (("model", model), ("dataset", dataset)):
        if local is not None and f"{name}_id" in spec:
            raise InvalidSpecFile(f"{path}: give either {name} or {name}_id")
    return SpecFile(
        spec=spec,
        model=None if model is None else _read_model(model, path),
        dataset=None if dataset is None else _read_dataset(dataset, path),
    )


def _parse(path: Path, *, expected: str) -> Json:
    try:
        text = path.read_text("utf-8")
        found = json.loads(text) if path.suffix == ".json" else _read_yaml(text)
        _check_json(found)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InvalidSpecFile(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise InvalidSpecFile(f"{path}: expected a mapping with {expected}")
    return found


class _JsonLoader(yaml.SafeLoader):
    """Reads of YAML what JSON has too: a date is the string that was written."""


_JsonLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(text: str) -> object:
    return yaml.load(text, _JsonLoader)  # noqa: S506 -- it is a SafeLoader


def _check_json(value: object, *where: str) -> None:
    """Raise ValueError for what JSON does not have, such as an infinity, RecursionError for a circle."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_json(name, *where)
            _check_json(inner, *where, str(name))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            _check_json(inner, *where, str(position))
    elif not isinstance(value, _JSON_SCALARS) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{'.'.join(where)}: JSON has no {value!r}")


def _take_mapping(spec: Json, name: str) -> Json | None:
    found = spec.pop(name, None)
    if found is not None and not isinstance(found, dict):
        raise InvalidSpecFile(f"{name}: expected a mapping")
    return found


def _read_model(model: Json, spec_path: Path) -> ModelFile:
    if "path" in model and "file" in model:
        raise InvalidSpecFile("model: give either path or file")
    field = "file" if "file" in model else "path"
    path = _find(model.pop(field, None), f"model.{field}", spec_path, takes_folder=True)
    if isinstance(model.get("architecture"), str):
        named = _find(model["architecture"], "model.architecture", spec_path)
        model["architecture"] = _parse(named, expected="the name of an architecture")
    return ModelFile(path, model)


def _read_dataset(dataset: Json, spec_path: Path) -> DatasetFiles:
    named = {split: dataset.pop(split) for split in _SPLITS if split in dataset}
    if named and "splits" in dataset:
        raise InvalidSpecFile(f"dataset: give either splits or {', '.join(named)}")
    splits = dataset.pop("splits", named)
    if not isinstance(splits, dict) or not splits:
        raise InvalidSpecFile("dataset: expected files under train, validation or test")
    found = {str(split): _find(name, f"dataset.{split}", spec_path) for split, name in splits.items()}
    return DatasetFiles(found, {"name": found[next(iter(found))].stem} | dataset)


def _find(name: object, field: str, spec_path: Path, *, takes_folder: bool = False) -> Path:
    kind = "file or folder" if takes_folder else "file"
    if not isinstance(name, str):
        raise InvalidSpecFile(f"{field}: expected the path of a {kind}")
    path = spec_path.parent / Path(name).expanduser()
    if not path.is_file() and not (takes_folder and path.is_dir()):
        raise InvalidSpecFile(f"{field}: there is no {kind} {path}")
    return path
