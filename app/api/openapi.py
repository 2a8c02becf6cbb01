"""The OpenAPI document: request bodies that our own code reads, and problems with their stable codes."""

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from app.core.errors import Problem, SecateurError
from app.core.job_requests import RetryRequest
from app.core.spec import JobSpec
from app.services.manifests import DatasetManifest, ModelManifest
from app.services.webhooks import WebhookChange, WebhookRequest

Json = dict[str, Any]  # Any: parts of an OpenAPI document
_PROBLEM_TYPE = "application/problem+json"
# What our own code reads from a body: FastAPI does not see these.
_BODIES = (JobSpec, RetryRequest, ModelManifest, DatasetManifest, WebhookRequest, WebhookChange)
_REF = "#/components/schemas/{model}"


def json_body(model: type[BaseModel], *, is_required: bool = True) -> Json:
    """Document a JSON body that is read strictly."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
    return {"requestBody": {"required": is_required, "content": content}}


def multipart_body(manifest: type[BaseModel]) -> Json:
    """Document an upload: a manifest and files."""
    schema = {
        "type": "object",
        "required": ["manifest", "file"],
        "properties": {
            "manifest": {"$ref": _REF.format(model=manifest.__name__)},
            "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
        },
    }
    content = {
        "multipart/form-data": {
            "schema": schema,
            "encoding": {"manifest": {"contentType": "application/json"}},
        }
    }
    return {"requestBody": {"required": True, "content": content}}


def install_openapi(app: FastAPI) -> None:
    """Make the app describe itself by `describe`, once."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def describe(app: FastAPI) -> Json:
    """Build the document of an app."""
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in (Problem, *_BODIES):
        _add_schema(schemas, model)
    schemas["Problem"]["properties"]["code"] = _code_schema()
    for path in document["paths"].values():
        for operation in path.values():
            _add_problem(operation)
    return document


def allowed_methods(request: Request) -> list[str]:
    """List the methods that the path of a request has: one router entry knows only its own."""
    methods = {"HEAD"} if "/artifacts/" in request.url.path else set()
    for template, operations in request.app.openapi()["paths"].items():
        # Names of tensors and files are rest of the path, and may hold a slash.
        pattern = re.sub(r"\{[a-z_]+\}", "[^/]+", template.replace("{name}", ".+"))
        if re.fullmatch(pattern, request.url.path):
            methods.update(method.upper() for method in operations)
    return sorted(methods)


def stable_codes() -> list[str]:
    """List the code of every error that there is."""
    return sorted(error.code for error in _all_errors(SecateurError))


def _all_errors(error: type[SecateurError]) -> set[type[SecateurError]]:
    return {error}.union(*(_all_errors(child) for child in error.__subclasses__()))


def _code_schema() -> Json:
    # A failed job may carry a code of a newer worker, so the list is open.
    return {
        "anyOf": [{"enum": stable_codes()}, {"type": "string"}],
        "description": "Stable; new ones may be added.",
    }


def _add_schema(schemas: Json, model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template=_REF)
    for name, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(name, definition)
    schemas[model.__name__] = schema


def _add_problem(operation: Json) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    content = {_PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    responses["default"] = {"description": "Anything that went wrong", "content": content}
