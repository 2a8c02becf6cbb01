"""Routes of the service itself: the catalog and its health."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from app.api.answers import json_answer, resource_answer
from app.api.dependencies import PartsDep
from app.api.metrics import METRICS_TYPE
from app.core.catalog import Catalog
from app.services import health

router = APIRouter(tags=["service"])


@router.get("/v1/catalog", response_model=Catalog)
def get_catalog(request: Request, parts: PartsDep) -> Response:
    """Get everything that a spec can name, with the JSON Schema and defaults of its parameters."""
    return resource_answer(request, parts.catalog)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_metrics(parts: PartsDep) -> Response:
    """Get the metrics in Prometheus' text format; what they are is in docs/operations.md."""
    body = parts.metrics.render(parts.reading_sessions)
    return Response(body, 200, {"Cache-Control": "no-store"}, METRICS_TYPE)


@router.get("/livez", response_model=dict[str, Any])  # Any: JSON
async def get_livez() -> Response:
    """Tell that the process answers."""
    return json_answer({"status": "ok"})


@router.get("/readyz", response_model=dict[str, Any])  # Any: JSON
def get_readyz(parts: PartsDep) -> Response:
    """Tell whether database, schema, store and broker are ready; 503 names what is not."""
    health.check_ready(parts.engine.execution_options(reads_only=True), parts.store, parts.broker)
    return json_answer({"status": "ok"})
