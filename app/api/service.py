"""Routes of the service itself: the catalog and its health."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.answers import json_answer, resource_answer
from app.api.dependencies import PartsDep
from app.core.catalog import Catalog
from app.services import health

router = APIRouter(tags=["service"])


@router.get("/v1/catalog", response_model=Catalog)
def get_catalog(request: Request, parts: PartsDep) -> Response:
    """Get everything that a spec can name, with the JSON Schema and defaults of its parameters."""
    return resource_answer(request, parts.catalog)


@router.get("/livez", response_model=dict[str, Any])  # Any: JSON
async def get_livez() -> Response:
    """Tell that the process answers."""
    return json_answer({"status": "ok"})


@router.get("/readyz", response_model=dict[str, Any])  # Any: JSON
def get_readyz(parts: PartsDep) -> Response:
    """Tell whether database, schema and store are ready; 503 names what is not."""
    health.check_ready(parts.engine.execution_options(reads_only=True), parts.store)
    return json_answer({"status": "ok"})
