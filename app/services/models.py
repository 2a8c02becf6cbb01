"""Models: take one in, find them, delete one."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from app.core import accounts, ids, outbox
from app.core.catalog import Catalog
from app.core.db import now_plus
from app.core.errors import (
    ErrorItem,
    InvalidManifest,
    InvalidUpload,
    ModelRejected,
    NotFound,
    NotReady,
    ResourceInUse,
    UnknownArchitecture,
    UnsupportedFormat,
)
from app.core.huggingface import WEIGHTS_ROLE, role_of
from app.core.queue import CHECK_MODEL
from app.core.states import TERMINAL, ModelStatus
from app.core.tables import Job, JsonObject, Model
from app.services import faults
from app.services.formats import huggingface, safetensors
from app.services.manifests import ArchitectureChoice, ModelManifest
from app.services.pages import Page, in_order, newest_first
from app.services.uploads import Files, Upload, commit_files, digest_of, digests_of

_HUGGINGFACE = "huggingface"


@dataclass(frozen=True)
class TakenModel:
    """An upload that is sound and whose bytes are durable, still without a row."""

    manifest: ModelManifest
    files: Files
    size_bytes: int
    elements: int


def take_in(upload: Upload, catalog: Catalog) -> TakenModel:
    """Check the structure of an upload and keep its bytes; no transaction is open meanwhile.

    Nothing is kept when anything is wrong. Raises InvalidManifest, UnsupportedFormat, UnknownArchitecture,
    InvalidUpload, or what the format's check finds.
    """
    manifest = _read_manifest(upload.manifest, catalog)
    if manifest.format == _HUGGINGFACE:
        return _take_in_folder(upload, manifest)
    if len(upload.files) != 1:
        raise InvalidUpload(f"a {manifest.format} model is one file part; found {len(upload.files)}")
    [file] = upload.files
    tensors = safetensors.read_tensors(file.staged.path)
    return TakenModel(
        manifest=manifest,
        files=commit_files({WEIGHTS_ROLE: file}),
        size_bytes=file.staged.size_bytes,
        elements=sum(tensor.elements for tensor in tensors),
    )


def create(session: Session, taken: TakenModel, *, hint_again_s: float) -> Model:
    """Add the row and the hint to check the model in depth."""
    model = Model(
        id=ids.new_id("mdl"),
        name=taken.manifest.name,
        format=taken.manifest.format,
        manifest=taken.manifest.model_dump(mode="json"),
        files=taken.files,
        sha256=digest_of(taken.files),
        size_bytes=taken.size_bytes,
        status=ModelStatus.VALIDATING,
        hint_at=now_plus(hint_again_s),
        # Elements in the file, buffers too: the deep check puts the exact number of parameters here.
        parameters=taken.elements,
    )
    session.add(model)
    accounts.refer(session, digests_of(taken.files))
    outbox.put(session, CHECK_MODEL, model.id)
    session.flush()
    return model


def get(session: Session, model_id: str) -> Model:
    """Return a model that is there; raises NotFound."""
    model = session.scalar(select(Model).where(Model.id == model_id, Model.deleted_at.is_(None)))
    if model is None:
        raise NotFound(f"there is no model {model_id}")
    return model


def find(session: Session, *, limit: int, cursor: str | None) -> Page[Model]:
    """List the models that are there, newest first."""
    query = select(Model).where(Model.deleted_at.is_(None))
    return newest_first(session, query, Model, limit=limit, cursor=cursor)


def find_layers(
    session: Session, model_id: str, *, limit: int | None, cursor: str | None
) -> Page[JsonObject]:
    """List the layers that the deep check found; raises NotFound, NotReady or ModelRejected."""
    model = get(session, model_id)
    if model.status == ModelStatus.REJECTED:
        reason = (model.rejection or {}).get("detail", "")
        raise ModelRejected(f"{model_id} was rejected and has no layers: {reason}")
    if model.inspection is None:
        raise NotReady(f"{model_id} is still {model.status}; its layers are known when it is ready")
    return in_order(model.inspection["layers"], limit=limit, cursor=cursor)


def delete(session: Session, model_id: str) -> None:
    """Delete a model: its row stays for the history of its jobs, its bytes are collected later.

    Raises NotFound, or ResourceInUse while a job that has not ended uses it.
    """
    # The lock keeps a job from being created on it between the question and the mark.
    if session.scalar(select(Model).where(_is_there(model_id)).with_for_update()) is None:
        raise NotFound(f"there is no model {model_id}")
    refuse_while_used(session, Job.model_id == model_id, f"model {model_id}")
    session.execute(update(Model).where(Model.id == model_id).values(deleted_at=now_plus()))


def refuse_while_used(session: Session, uses: ColumnElement[bool], what: str) -> None:
    """Raise ResourceInUse, naming some of the jobs, while one that has not ended uses the resource."""
    used_by = session.scalars(select(Job.id).where(uses, Job.status.not_in(TERMINAL)).limit(5)).all()
    if used_by:
        raise ResourceInUse(f"{what} is used by {', '.join(used_by)}; cancel them or wait until they end")


def _is_there(model_id: str) -> ColumnElement[bool]:
    return (Model.id == model_id) & Model.deleted_at.is_(None)


def _take_in_folder(upload: Upload, manifest: ModelManifest) -> TakenModel:
    files = upload.by_name()
    checked = huggingface.check_files({name: file.staged.path for name, file in files.items()})
    architecture = ArchitectureChoice(
        library="transformers", name=checked.architecture, params={"model_type": checked.model_type}
    )
    return TakenModel(
        manifest=manifest.model_copy(update={"architecture": architecture}),
        files=commit_files({role_of(name): files[name] for name in sorted(files)}),
        size_bytes=sum(file.staged.size_bytes for file in upload.files),
        elements=checked.elements,
    )


def _read_manifest(data: bytes, catalog: Catalog) -> ModelManifest:
    manifest = faults.read_json(data, ModelManifest, InvalidManifest, what="the manifest")
    formats = [known.name for known in catalog.model_formats]
    if manifest.format not in formats:
        raise _refuse(
            UnsupportedFormat, "/format", f"there is no model format {manifest.format!r}", exist=formats
        )
    if manifest.format == _HUGGINGFACE:
        _refuse_architecture(manifest)
        return manifest
    if manifest.architecture is None:
        missing = ErrorItem(pointer="/architecture", code="missing", detail="Field required")
        raise faults.refusal(InvalidManifest, [missing], what="the manifest")
    return manifest.model_copy(update={"architecture": _resolve(manifest.architecture, catalog)})


def _refuse_architecture(manifest: ModelManifest) -> None:
    if manifest.architecture is not None:
        detail = f"config.json says what a {_HUGGINGFACE} model is made of: leave the architecture out"
        item = ErrorItem(pointer="/architecture", code="extra_forbidden", detail=detail)
        raise faults.refusal(InvalidManifest, [item], what="the manifest")


def _resolve(choice: ArchitectureChoice, catalog: Catalog) -> ArchitectureChoice:
    """Check an architecture against the catalog and fill in its defaults."""
    libraries = sorted({known.library for known in catalog.architectures})
    if choice.library not in libraries:
        raise _refuse(
            UnknownArchitecture,
            "/architecture/library",
            f"there is no library {choice.library!r}",
            exist=libraries,
        )
    known = {entry.name: entry for entry in catalog.architectures if entry.library == choice.library}
    if choice.name not in known:
        raise _refuse(
            UnknownArchitecture,
            "/architecture/name",
            f"{choice.library} has no architecture {choice.name!r}",
            exist=sorted(known),
        )
    entry = known[choice.name]
    items = faults.from_schema(entry.params_schema, choice.params, at="/architecture/params")
    if items:
        raise faults.refusal(InvalidManifest, items, what="the manifest")
    return choice.model_copy(update={"params": entry.defaults | choice.params})


def _refuse(
    error: type[UnsupportedFormat | UnknownArchitecture], at: str, fault: str, *, exist: list[str]
) -> Exception:
    detail = f"{fault}; there are: {', '.join(exist)}"
    return error(detail, errors=(ErrorItem(pointer=at, code=error.code, detail=detail),))
