"""Check the files of a Hugging Face folder: config, safetensors with their index, for text a tokenizer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import DuplicateKeys, InvalidModel, InvalidUpload, PickleRefused
from app.core.huggingface import (
    CONFIG,
    IMAGES_SUFFIX,
    INDEX,
    OPTIONAL,
    SHARD,
    TOKENIZER,
    WEIGHTS,
    is_taken,
)
from app.services.formats import safetensors
from app.services.formats.hf_config import check_config
from app.services.formats.json_file import read_object

_MAX_CONFIG_BYTES = 8 * 1024**2
_MAX_TOKENIZER_BYTES = 64 * 1024**2
_MAX_INDEX_BYTES = 32 * 1024**2
_PICKLES = re.compile(r".*\.(bin|ckpt|pickle|pkl|pt|pth)")


@dataclass(frozen=True)
class CheckedModel:
    """What a sound folder holds; `elements` counts those of every tensor."""

    model_type: str
    architecture: str
    elements: int


def check_files(files: Mapping[str, Path]) -> CheckedModel:
    """Check every file, by its name in the folder; nothing is read but JSON and safetensors headers.

    Raises InvalidUpload, PickleRefused, UnknownArchitecture, or another InvalidModel.
    """
    _check_names(files)
    tensors = _read_tensors(files)
    config = read_object(files[CONFIG], CONFIG, max_bytes=_MAX_CONFIG_BYTES)
    model_type, architecture = check_config(config, tensors=len(tensors))
    if not architecture.endswith(IMAGES_SUFFIX):
        _check_tokenizer(files)
    _check_others(files)
    return CheckedModel(model_type, architecture, sum(tensors.values()))


def _check_names(files: Mapping[str, Path]) -> None:
    for name in files:
        if _PICKLES.fullmatch(name.lower()):
            raise PickleRefused(
                f"{name} is a pickle, which could run code when read; save_pretrained(folder) of "
                "transformers writes model.safetensors instead"
            )
        if not is_taken(name):
            raise InvalidUpload(
                f"{name[:100]!a} is no file of such a model; taken are {CONFIG}, {WEIGHTS} (or its shards "
                f"with {INDEX}), {TOKENIZER}, {', '.join(OPTIONAL)}"
            )
    if CONFIG not in files:
        raise InvalidUpload(f"the upload lacks {CONFIG}; found: {', '.join(sorted(files))}")
    shards = [name for name in files if SHARD.fullmatch(name)]
    if (WEIGHTS in files) == bool(shards) or (INDEX in files) != bool(shards):
        raise InvalidUpload(
            f"expected either {WEIGHTS} alone, or shards with {INDEX}; found: {', '.join(sorted(files))}"
        )


def _read_tensors(files: Mapping[str, Path]) -> dict[str, int]:
    """Return the number of elements of every tensor, after comparing shards with their index."""
    if WEIGHTS in files:
        return {tensor.name: tensor.elements for tensor in _read_headers(files, WEIGHTS)}
    held: dict[str, str] = {}
    elements: dict[str, int] = {}
    for shard in sorted(name for name in files if SHARD.fullmatch(name)):
        for tensor in _read_headers(files, shard):
            if tensor.name in held:
                raise DuplicateKeys(f"the tensor {tensor.name} is in {held[tensor.name]} and in {shard}")
            held[tensor.name], elements[tensor.name] = shard, tensor.elements
    index = read_object(files[INDEX], INDEX, max_bytes=_MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict):
        raise InvalidModel(f"{INDEX} has no object 'weight_map'")
    differing = sorted(name for name in index.keys() | held.keys() if index.get(name) != held.get(name))
    if differing:
        name = differing[0]
        raise InvalidModel(
            f"{INDEX} and the shards differ in {len(differing)} tensors; the first is {name[:100]!a}: the "
            f"index says {ascii(index.get(name))[:100]}, it is in {held.get(name, 'none')}"
        )
    return elements


def _read_headers(files: Mapping[str, Path], name: str) -> tuple[safetensors.Tensor, ...]:
    try:
        return safetensors.read_tensors(files[name])
    except InvalidModel as error:
        raise type(error)(f"{name}: {error.detail}") from error


def _check_tokenizer(files: Mapping[str, Path]) -> None:
    if TOKENIZER not in files:
        raise InvalidUpload(
            f"the upload lacks {TOKENIZER}; get it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    tokenizer = read_object(files[TOKENIZER], TOKENIZER, max_bytes=_MAX_TOKENIZER_BYTES)
    if not isinstance(tokenizer.get("model"), dict):
        raise InvalidModel(f"{TOKENIZER} has no object 'model': it is not a file of the tokenizers library")


def _check_others(files: Mapping[str, Path]) -> None:
    for name in OPTIONAL:
        if name not in files:
            continue
        if not name.endswith(".json"):
            _check_text(files[name], name)
        elif read_object(files[name], name, max_bytes=_MAX_TOKENIZER_BYTES).get("auto_map"):
            raise InvalidModel(
                f"{name} has 'auto_map': code that comes with a model is never run; take it out"
            )


def _check_text(path: Path, name: str) -> None:
    size = path.stat().st_size
    if size > _MAX_TOKENIZER_BYTES:
        raise InvalidModel(f"{name} has {size} bytes; at most {_MAX_TOKENIZER_BYTES} are taken")
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error
