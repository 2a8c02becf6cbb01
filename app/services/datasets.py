"""Datasets: take one in, find them, delete one."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.core import accounts, ids
from app.core.catalog import Catalog
from app.core.db import now_plus
from app.core.errors import (
    ErrorItem,
    InvalidDataset,
    InvalidManifest,
    InvalidUpload,
    NotFound,
    UnsupportedFormat,
)
from app.core.rows import Columns
from app.core.tables import Dataset, Job, JsonObject
from app.services import faults
from app.services.formats import npz, tables
from app.services.formats.labels import SplitFacts
from app.services.manifests import DatasetManifest
from app.services.models import refuse_while_used
from app.services.pages import Page, newest_first
from app.services.uploads import Files, Upload, UploadedFile, commit_files, digest_of, digests_of

_IMAGES = "npz"
_TABLES = ("csv", "jsonl", "parquet")
# Fields of a manifest that only some formats or tasks have.
_ONLY_FORMATS: Mapping[str, tuple[str, ...]] = {
    "layout": (_IMAGES,),
    "normalize": (_IMAGES,),
    "columns": _TABLES,
    "max_tokens": _TABLES,
}


@dataclass(frozen=True)
class TakenDataset:
    """An upload that is sound and whose bytes are durable, still without a row."""

    manifest: DatasetManifest
    files: Files
    size_bytes: int
    splits: dict[str, SplitFacts]


def take_in(upload: Upload, catalog: Catalog, *, max_unpacked_bytes: int) -> TakenDataset:
    """Check every split of an upload and keep its bytes; no transaction is open meanwhile.

    Nothing is kept when anything is wrong. Raises InvalidManifest, UnsupportedFormat, InvalidUpload, or what
    the format's check finds.
    """
    manifest = _read_manifest(upload.manifest, catalog)
    roles = _assign_files(manifest, upload)
    splits = {
        split: _read_split(manifest, split, file, max_unpacked_bytes=max_unpacked_bytes)
        for split, file in roles.items()
    }
    if manifest.format == _IMAGES:
        _check_agreement(manifest, splits)
    size_bytes = sum(file.staged.size_bytes for file in upload.files)
    return TakenDataset(manifest, commit_files(roles), size_bytes, splits)


def create(session: Session, taken: TakenDataset) -> Dataset:
    """Add the row."""
    dataset = Dataset(
        id=ids.new_id("dst"),
        name=taken.manifest.name,
        task=taken.manifest.task,
        format=taken.manifest.format,
        manifest=taken.manifest.model_dump(mode="json"),
        files=taken.files,
        splits={name: _describe(split) for name, split in taken.splits.items()},
        sha256=digest_of(taken.files),
        size_bytes=taken.size_bytes,
    )
    session.add(dataset)
    accounts.refer(session, digests_of(taken.files))
    session.flush()
    return dataset


def get(session: Session, dataset_id: str) -> Dataset:
    """Return a dataset that is there; raises NotFound."""
    dataset = session.scalar(select(Dataset).where(Dataset.id == dataset_id, Dataset.deleted_at.is_(None)))
    if dataset is None:
        raise NotFound(f"there is no dataset {dataset_id}")
    return dataset


def find(session: Session, *, limit: int, cursor: str | None) -> Page[Dataset]:
    """List the datasets that are there, newest first."""
    query = select(Dataset).where(Dataset.deleted_at.is_(None))
    return newest_first(session, query, Dataset, limit=limit, cursor=cursor)


def delete(session: Session, dataset_id: str) -> None:
    """Delete a dataset: its row stays for the history of its jobs, its bytes are collected later.

    Raises NotFound, or ResourceInUse while a job that has not ended uses it.
    """
    there = (Dataset.id == dataset_id) & Dataset.deleted_at.is_(None)
    if session.scalar(select(Dataset).where(there).with_for_update()) is None:
        raise NotFound(f"there is no dataset {dataset_id}")
    refuse_while_used(session, Job.dataset_id == dataset_id, f"dataset {dataset_id}")
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(deleted_at=now_plus()))


def channels_first(shape: list[int], layout: str | None) -> list[int]:
    """Return the shape of an image as [channels, height, width]."""
    return [shape[2], shape[0], shape[1]] if layout == "NHWC" else list(shape)


def _read_manifest(data: bytes, catalog: Catalog) -> DatasetManifest:
    manifest = faults.read_json(data, DatasetManifest, InvalidManifest, what="the manifest")
    formats = [known.name for known in catalog.dataset_formats]
    tasks = [known.name for known in catalog.tasks]
    for field, found, known in (("format", manifest.format, formats), ("task", manifest.task, tasks)):
        if found not in known:
            detail = f"there is no dataset {field} {found!r}; there are: {', '.join(known)}"
            item = ErrorItem(pointer=f"/{field}", code=UnsupportedFormat.code, detail=detail)
            raise UnsupportedFormat(detail, errors=(item,))
    _check_task(manifest, catalog)
    _refuse_useless_fields(manifest)
    if manifest.format == _IMAGES:
        return manifest.model_copy(update={"layout": manifest.layout or "NCHW"})
    return manifest


def _check_task(manifest: DatasetManifest, catalog: Catalog) -> None:
    tasks = next(known.tasks for known in catalog.dataset_formats if known.name == manifest.format)
    if manifest.task not in tasks:
        detail = f"{manifest.format} does not serve the task {manifest.task!r}; it serves: {', '.join(tasks)}"
        item = ErrorItem(pointer="/format", code=UnsupportedFormat.code, detail=detail)
        raise UnsupportedFormat(detail, errors=(item,))


def _refuse_useless_fields(manifest: DatasetManifest) -> None:
    """Refuse what would change nothing: whoever wrote it meant something."""
    is_modeling = manifest.task == "language-modeling"
    useless = {name for name, formats in _ONLY_FORMATS.items() if manifest.format not in formats}
    useless.add("max_tokens" if is_modeling else "block_tokens")
    given = [name for name in sorted(useless) if getattr(manifest, name) is not None]
    items = [
        ErrorItem(
            pointer=f"/{name}",
            code="extra_forbidden",
            detail=f"{name} means nothing for {manifest.format} and {manifest.task}",
        )
        for name in given
    ]
    if is_modeling and manifest.columns is not None:
        items += [
            ErrorItem(
                pointer=f"/columns/{name}",
                code="extra_forbidden",
                detail="language modeling reads one column of text",
            )
            for name in ("text_pair", "label")
            if getattr(manifest.columns, name) is not None
        ]
    if items:
        raise faults.refusal(InvalidManifest, items, what="the manifest")


def _read_split(
    manifest: DatasetManifest, split: str, file: UploadedFile, *, max_unpacked_bytes: int
) -> SplitFacts:
    path = file.staged.path
    if manifest.format == _IMAGES:
        return npz.read_split(path, split, max_total_bytes=max_unpacked_bytes, task=manifest.task)
    columns = manifest.columns or Columns()
    return tables.read_split(path, split, form=manifest.format, task=manifest.task, columns=columns)


def _assign_files(manifest: DatasetManifest, upload: Upload) -> dict[str, UploadedFile]:
    files = upload.by_name()
    wanted = manifest.splits.by_name()
    found = ", ".join(sorted(files)) or "none"
    for split, name in wanted.items():
        if name not in files:
            detail = f"no file part is called {name!r}; found: {found}"
            item = ErrorItem(pointer=f"/splits/{split}", code="missing_file", detail=detail)
            raise InvalidUpload(f"the manifest's split {split}: {detail}", errors=(item,))
    unused = sorted(set(files) - set(wanted.values()))
    if unused:
        raise InvalidUpload(f"the manifest has no split for: {', '.join(unused)}")
    return {split: files[name] for split, name in wanted.items()}


def _check_agreement(manifest: DatasetManifest, splits: dict[str, SplitFacts]) -> None:
    """Refuse splits of different image shapes, and a normalisation for another number of channels."""
    shapes = {name: split.shape for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {list(shape or ())}" for name, shape in shapes.items())
        raise InvalidDataset(f"the splits hold images of different shapes: {found}")
    channels = channels_first(list(splits["test"].shape or ()), manifest.layout)[0]
    if manifest.normalize is not None and len(manifest.normalize.mean) != channels:
        detail = f"expected one value a channel, {channels}, found {len(manifest.normalize.mean)}"
        item = ErrorItem(pointer="/normalize/mean", code="wrong_length", detail=detail)
        raise faults.refusal(InvalidManifest, [item], what="the manifest")


def _describe(split: SplitFacts) -> JsonObject:
    labels = split.labels
    return {
        "n": split.n,
        "shape": None if split.shape is None else list(split.shape),
        "dtype": split.dtype,
        "label_min": None if labels is None else labels.low,
        "label_max": None if labels is None else labels.high,
        "classes": None if labels is None else labels.classes,
    }
