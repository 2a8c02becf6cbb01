"""Routes of models."""

from fastapi import APIRouter, Request, Response

from app.api.answers import page_answer, resource_answer
from app.api.dependencies import Cursor, Limit, ModelId, OptionalLimit, PartsDep, ReadingDep, SessionDep
from app.api.idempotency import IdempotencyDep
from app.api.multipart import UploadDep
from app.api.openapi import multipart_body
from app.api.views import ModelLayerView, ModelView, PageView, view_model
from app.services import models
from app.services.idempotency import Answer
from app.services.manifests import ModelManifest

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post("", status_code=201, response_model=ModelView, openapi_extra=multipart_body(ModelManifest))
def create_model(once: IdempotencyDep, upload: UploadDep, parts: PartsDep, session: SessionDep) -> Response:
    """Upload a model: `manifest` (JSON) and one `file`, or every file of a folder of transformers.

    Its structure is checked now, its depth later by a worker: until then it is `validating`.
    """
    taken = models.take_in(upload, parts.catalog)

    def create() -> Answer:
        model = models.create(session, taken, hint_again_s=parts.settings.hint_again_s)
        return Answer(201, view_model(model).model_dump(mode="json"), {"Location": f"/v1/models/{model.id}"})

    return once.answer(session, upload.sha256(), create)


@router.get("", response_model=PageView[ModelView])
def list_models(session: ReadingDep, limit: Limit = 20, cursor: Cursor = None) -> Response:
    """List models, newest first."""
    return page_answer(models.find(session, limit=limit, cursor=cursor).map(view_model))


@router.get("/{model_id}", response_model=ModelView)
def get_model(request: Request, model_id: ModelId, session: ReadingDep) -> Response:
    """Get one model: `ready` and `rejected` are final."""
    return resource_answer(request, view_model(models.get(session, model_id)))


@router.delete("/{model_id}", status_code=204, response_class=Response)
def delete_model(model_id: ModelId, session: SessionDep) -> Response:
    """Delete a model that no queued or running job uses. Ended jobs keep their reports and artifacts."""
    models.delete(session, model_id)
    return Response(status_code=204)


@router.get("/{model_id}/layers", response_model=PageView[ModelLayerView])
def list_model_layers(
    model_id: ModelId, session: ReadingDep, limit: OptionalLimit = None, cursor: Cursor = None
) -> Response:
    """List what the model is made of and what can be pruned; 409 until the model is ready."""
    return page_answer(models.find_layers(session, model_id, limit=limit, cursor=cursor))
