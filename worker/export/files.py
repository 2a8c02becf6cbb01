"""The names and kinds of what a job exports, and how the exported model is described to a reader."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from app.core.huggingface import CONFIG, INDEX, PREPROCESSOR, SHARD, WEIGHTS_ROLE, name_of
from app.core.spec import Output
from worker.formats.cut import is_cut
from worker.protocol import ModelInput

MODEL_FILE = "model.safetensors"
MASKS_FILE = "masks.safetensors"
PROGRAM_FILE = "model.pt2"
ARCHITECTURE_FILE = "architecture.json"
HUGGINGFACE = "huggingface"
_BINARY = "application/octet-stream"
_KINDS = {CONFIG: "config", PREPROCESSOR: "preprocessor"}


class ExportedFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    media_type: str


_MODEL = ExportedFile(name=MODEL_FILE, kind="model", media_type=_BINARY)
_MASKS = ExportedFile(name=MASKS_FILE, kind="masks", media_type=_BINARY)
_PROGRAM = ExportedFile(name=PROGRAM_FILE, kind="program", media_type="application/zip")
_ARCHITECTURE = ExportedFile(name=ARCHITECTURE_FILE, kind="architecture", media_type="application/json")


def list_files(
    model: ModelInput, outputs: Sequence[Output] = ("huggingface", "masks")
) -> tuple[ExportedFile, ...]:
    """List what the outputs consist of, each file once; by default, what there is of every uploaded model."""
    is_described = is_cut(model.architecture) and model.format != HUGGINGFACE
    parts: Mapping[Output, tuple[ExportedFile, ...]] = {
        "safetensors": (_MODEL, _ARCHITECTURE) if is_described else (_MODEL,),
        "huggingface": (_MODEL, *_list_companions(model)),
        "pt2": (_PROGRAM,),
        "masks": (_MASKS,),
    }
    return tuple(dict.fromkeys(file for output in outputs for file in parts[output]))


def list_kept_roles(model: ModelInput) -> tuple[str, ...]:
    """List the uploaded files of a folder that are given back as they came."""
    if model.format != HUGGINGFACE:
        return ()
    gone = (WEIGHTS_ROLE, CONFIG, INDEX)
    return tuple(role for role in sorted(model.files) if role not in gone and not SHARD.fullmatch(role))


def describe_export(model: ModelInput, folder: Path) -> ModelInput:
    """Describe the exported model in `folder` as an upload, for the reader of its format."""
    companions = {CONFIG, *list_kept_roles(model)} if model.format == HUGGINGFACE else set()
    files = {WEIGHTS_ROLE: folder / MODEL_FILE} | {
        role: folder / name_of(role) for role in sorted(companions)
    }
    return ModelInput(format=model.format, architecture=model.architecture, files=files, sha256={})


def _list_companions(model: ModelInput) -> tuple[ExportedFile, ...]:
    if model.format != HUGGINGFACE:
        return ()
    names = (CONFIG, *map(name_of, list_kept_roles(model)))
    return tuple(
        ExportedFile(
            name=name,
            kind=_KINDS.get(name, "tokenizer"),
            media_type="application/json" if name.endswith(".json") else "text/plain",
        )
        for name in names
    )
