"""Turn every error into application/problem+json (RFC 9457): ours, the framework's and the unexpected."""

import errno
import logging
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.api.answers import json_bytes
from app.api.openapi import allowed_methods
from app.api.request_id import HEADER, request_id_of
from app.core.db import is_full
from app.core.errors import (
    ERROR_TYPE_PREFIX,
    BadRequest,
    ErrorItem,
    InvalidParameter,
    NotAllowed,
    NotFound,
    Problem,
    SecateurError,
    StorageFull,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from app.core.probes import say
from app.services.strict_json import pointer

MEDIA_TYPE = "application/problem+json"
_CLIENT_CLOSED_REQUEST = 499
# What the machine has too little of now, and has again when others are done.
_SHORT_OF = {
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "network buffers",
}
_log = logging.getLogger(__name__)
_BY_STATUS: dict[int, type[SecateurError]] = {
    error.status: error for error in (BadRequest, NotFound, NotAllowed, TooLarge, UnsupportedMedia)
}


def install_handlers(app: FastAPI) -> None:
    """Register a handler for each kind of error."""
    app.add_exception_handler(SecateurError, _handle_ours)
    app.add_exception_handler(RequestValidationError, _handle_parameters)
    app.add_exception_handler(HTTPException, _handle_framework)
    for away in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(away, _handle_database)
    app.add_exception_handler(OSError, _handle_shortage)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(Exception, _handle_unexpected)


def problem_response(
    request: Request, error: SecateurError, *, headers: dict[str, str] | None = None
) -> Response:
    """Render an error as the answer to a request."""
    known = dict(headers or {})
    if error.retry_after_s is not None:
        known.setdefault("Retry-After", str(error.retry_after_s))
    return _render(request, error.problem(), known)


def _render(request: Request, problem: Problem, headers: dict[str, str]) -> Response:
    request_id = request_id_of(request.scope)
    sent = problem.model_copy(update={"instance": request.url.path, "request_id": request_id})
    known = {"Cache-Control": "no-store"} | headers
    if request_id is not None:
        known[HEADER] = request_id
    body = json_bytes(sent.model_dump(mode="python"))
    return Response(body, problem.status, known, MEDIA_TYPE)


async def _handle_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, SecateurError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("request failed", extra=_fields(request, error))
    return problem_response(request, error)


async def _handle_parameters(request: Request, error: Exception) -> Response:
    """Answer faults in the query, the path or the headers; bodies are read by our own code."""
    assert isinstance(error, RequestValidationError)
    items = tuple(
        ErrorItem(pointer=pointer(*fault["loc"]), code=fault["type"], detail=fault["msg"])
        for fault in error.errors()
    )
    detail = "; ".join(f"{item.pointer}: {item.detail}" for item in items)
    return problem_response(request, InvalidParameter(detail, errors=items))


async def _handle_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code)
    headers = dict(error.headers or {})
    if kind is NotAllowed and (methods := allowed_methods(request)):
        headers["Allow"] = ", ".join(methods)
    if kind is not None:
        details = {
            NotFound: f"there is nothing at {request.url.path}",
            NotAllowed: f"{request.method} is not possible here; allowed: {headers.get('Allow')}",
        }
        return problem_response(request, kind(details.get(kind, str(error.detail))), headers=headers)
    code = f"http_{error.status_code}"
    problem = Problem(
        type=ERROR_TYPE_PREFIX + code,
        title=HTTPStatus(error.status_code).phrase,
        status=error.status_code,
        detail=str(error.detail),
        code=code,
        retryable=False,
    )
    return _render(request, problem, headers)


async def _handle_database(request: Request, error: Exception) -> Response:
    _log.error("database unavailable", extra=_fields(request, error) | {"found": say(error)})
    if is_full(error):
        return problem_response(request, StorageFull("the database has no room left; nothing was kept"))
    return problem_response(request, Unavailable("the database cannot be used at the moment; try again"))


async def _handle_shortage(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    lacking = _SHORT_OF.get(error.errno or 0)
    if lacking is None:
        raise error
    _log.error("out of resources", extra=_fields(request, error))
    return problem_response(request, Unavailable(f"this server is out of {lacking}; try again"))


async def _handle_disconnect(request: Request, error: Exception) -> Response:
    # Nobody reads this; it only keeps a client that went away from being logged as our failure.
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _handle_unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected error", exc_info=error, extra=_fields(request, error))
    return problem_response(
        request, SecateurError("something went wrong here; the log has it under request_id")
    )


def _fields(request: Request, error: Exception) -> dict[str, str | None]:
    return {
        "request_id": request_id_of(request.scope),
        "method": request.method,
        "path": request.url.path,
        "error": type(error).__name__,
    }
