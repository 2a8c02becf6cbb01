"""Datasets: take one in, find them, delete one."""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.core import ids
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
from app.core.tables import Dataset, Job, JsonObject
from app.services import faults
from app.services.formats import npz
from app.services.formats.npz import ImageSplit
from app.services.manifests import DatasetManifest
from app.services.models import refuse_while_used
from app.services.pages import Page, newest_first
from app.services.uploads import Files, Upload, UploadedFile, commit_files, digest_of


@dataclass(frozen=True)
class TakenDataset:
    """An upload that is sound and whose bytes are durable, still without a row."""

    manifest: DatasetManifest
    files: Files
    size_bytes: int
    splits: dict[str, ImageSplit]


def take_in(upload: Upload, catalog: Catalog, *, max_unpacked_bytes: int) -> TakenDataset:
    """Check every split of an upload and keep its bytes; no transaction is open meanwhile.

    Nothing is kept when anything is wrong. Raises InvalidManifest, UnsupportedFormat, InvalidUpload, or what
    the format's check finds.
    """
    manifest = _read_manifest(upload.manifest, catalog)
    roles = _assign_files(manifest, upload)
    splits = {
        split: npz.read_split(file.staged.path, split, max_total_bytes=max_unpacked_bytes)
        for split, file in roles.items()
    }
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
    return manifest.model_copy(update={"layout": manifest.layout or "NCHW"})


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


def _check_agreement(manifest: DatasetManifest, splits: dict[str, ImageSplit]) -> None:
    """Refuse splits of different image shapes, and a normalisation for another number of channels."""
    shapes = {name: split.shape for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InvalidDataset(f"the splits hold images of different shapes: {found}")
    channels = channels_first(list(splits["test"].shape), manifest.layout)[0]
    if manifest.normalize is not None and len(manifest.normalize.mean) != channels:
        detail = f"expected one value a channel, {channels}, found {len(manifest.normalize.mean)}"
        item = ErrorItem(pointer="/normalize/mean", code="wrong_length", detail=detail)
        raise faults.refusal(InvalidManifest, [item], what="the manifest")


def _describe(split: ImageSplit) -> JsonObject:
    return {
        "n": split.n,
        "shape": list(split.shape),
        "dtype": split.dtype,
        "label_min": split.labels.low,
        "label_max": split.labels.high,
        "classes": split.labels.classes,
    }
