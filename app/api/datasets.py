"""Routes of datasets."""

from fastapi import APIRouter, Request, Response

from app.api.answers import page_answer, resource_answer
from app.api.dependencies import Cursor, DatasetId, Limit, PartsDep, ReadingDep, SessionDep
from app.api.idempotency import IdempotencyDep
from app.api.multipart import UploadDep
from app.api.openapi import multipart_body
from app.api.views import DatasetView, PageView, view_dataset
from app.services import datasets
from app.services.idempotency import Answer
from app.services.manifests import DatasetManifest

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post("", status_code=201, response_model=DatasetView, openapi_extra=multipart_body(DatasetManifest))
def create_dataset(once: IdempotencyDep, upload: UploadDep, parts: PartsDep, session: SessionDep) -> Response:
    """Upload a dataset: `manifest` (JSON) and one `file` a split, named as in the manifest."""
    taken = datasets.take_in(upload, parts.catalog, max_unpacked_bytes=parts.settings.max_upload_bytes)

    def create() -> Answer:
        dataset = datasets.create(session, taken)
        view = view_dataset(dataset).model_dump(mode="json")
        return Answer(201, view, {"Location": f"/v1/datasets/{dataset.id}"})

    return once.answer(session, upload.sha256(), create)


@router.get("", response_model=PageView[DatasetView])
def list_datasets(session: ReadingDep, limit: Limit = 20, cursor: Cursor = None) -> Response:
    """List datasets, newest first."""
    return page_answer(datasets.find(session, limit=limit, cursor=cursor).map(view_dataset))


@router.get("/{dataset_id}", response_model=DatasetView)
def get_dataset(request: Request, dataset_id: DatasetId, session: ReadingDep) -> Response:
    """Get one dataset."""
    return resource_answer(request, view_dataset(datasets.get(session, dataset_id)))


@router.delete("/{dataset_id}", status_code=204, response_class=Response)
def delete_dataset(dataset_id: DatasetId, session: SessionDep) -> Response:
    """Delete a dataset that no queued or running job uses. Ended jobs keep their reports and artifacts."""
    datasets.delete(session, dataset_id)
    return Response(status_code=204)
