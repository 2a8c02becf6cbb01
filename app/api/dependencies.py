"""What endpoints are given: the parts of the service, sessions, checked parameters."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from celery import Celery
from fastapi import Depends, Path, Query, Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.api.in_flight import KeysInFlight
from app.api.metrics import Metrics
from app.core.blobs import Blobs
from app.core.catalog import Catalog
from app.core.config import Settings
from app.core.db import Sessions
from app.core.errors import ErrorItem, InvalidParameter, NotFound
from app.core.logs import add_log_fields
from app.services.strict_json import is_storable, pointer

LABEL_FILTER = "label.KEY"


@dataclass(frozen=True)
class Parts:
    """What the service is made of, made once when it starts."""

    settings: Settings
    engine: Engine
    sessions: Sessions
    reading_sessions: Sessions
    store: Blobs
    catalog: Catalog
    keys_in_flight: KeysInFlight
    broker: Celery
    metrics: Metrics
    closing: threading.Event  # set when the process shall end: streams and long polls answer at once


async def get_parts(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


PartsDep = Annotated[Parts, Depends(get_parts)]


def get_session(parts: PartsDep) -> Iterator[Session]:
    """Give one transaction to a request: it commits when the endpoint returns, or rolls back."""
    with parts.sessions.begin() as session:
        yield session


def get_reading_session(parts: PartsDep) -> Iterator[Session]:
    """Give a session that only reads: it never waits for a writer."""
    with parts.reading_sessions() as session:
        yield session


# The scope makes the commit come before the reply: a client told 202 finds its job, and a commit that fails
# is a 500 and not a lie.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReadingDep = Annotated[Session, Depends(get_reading_session, scope="function")]


def _checked_id(kind: str, prefix: str) -> object:
    """Make the type of an id in a path; what cannot be an id answers like one that is unknown."""

    async def check(value: Annotated[str, Path(alias=f"{kind}_id")]) -> str:
        rest = value.removeprefix(f"{prefix}_")
        if rest == value or len(rest) != 26 or not (rest.isascii() and rest.isalnum()):
            raise NotFound(f"there is no {kind} {ascii(value)[1:-1][:80]}")
        add_log_fields(**{f"{kind}_id": value})
        return value

    return Depends(check)


ModelId = Annotated[str, _checked_id("model", "mdl")]
DatasetId = Annotated[str, _checked_id("dataset", "dst")]
JobId = Annotated[str, _checked_id("job", "job")]
WebhookId = Annotated[str, _checked_id("webhook", "whk")]
DeliveryId = Annotated[str, _checked_id("delivery", "msg")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many rows at most.")]
OptionalLimit = Annotated[
    int | None, Query(ge=1, le=1000, description="How many rows at most; all by default.")
]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")]


async def refuse_unknown_parameters(request: Request) -> None:
    """Refuse query parameters that the route does not have, or that come twice: a typo must not pass.

    No name holds a NUL or a broken character, and Postgres would not even look for one.
    """
    if not is_storable(request.scope["path"]):
        raise NotFound("no name holds a NUL or a broken character")
    if not request.query_params:
        return
    known = _documented_parameters(request)
    accepts_labels = LABEL_FILTER in known
    items = []
    for name in dict.fromkeys(request.query_params.keys()):
        is_known = name in known or (accepts_labels and name.startswith("label."))
        values = request.query_params.getlist(name)
        at = pointer("query", name if is_storable(name) else ascii(name))
        if not is_known:
            exist = ", ".join(sorted(known)) or "none"
            detail = f"there is no parameter {ascii(name)[1:-1][:80]!r} here; there are: {exist}"
            items.append(ErrorItem(pointer=at, code="unknown_parameter", detail=detail))
        elif len(values) > 1:
            items.append(
                ErrorItem(pointer=at, code="repeated_parameter", detail=f"{name} comes {len(values)} times")
            )
        elif not is_storable(values[0]):
            items.append(
                ErrorItem(pointer=at, code="bad_text", detail=f"{name} holds NUL or a broken character")
            )
    if items:
        raise InvalidParameter("; ".join(item.detail for item in items), errors=tuple(items))


def _documented_parameters(request: Request) -> set[str]:
    """Return the names of the query parameters that OpenAPI has for this request."""
    path = request.app.openapi()["paths"].get(request.scope["route"].path_format, {})
    operation = path.get(request.method.lower(), path.get("get", {}))
    return {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
