"""Render answers as JSON, with validators: ETag and 304 for one resource, pages for lists."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from app.services.pages import Page

JSON_TYPE = "application/json"


def json_bytes(value: Any) -> bytes:  # Any: JSON with whatever values a client sent
    """Encode JSON as ASCII, so that no text that a client sent can break the encoding."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def json_answer(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:  # Any: JSON
    """Answer with JSON that is not to be stored by caches."""
    return Response(json_bytes(value), status, {"Cache-Control": "no-store"} | dict(headers or {}), JSON_TYPE)


def resource_answer(
    request: Request, view: BaseModel | Any, headers: Mapping[str, str] | None = None
) -> Response:  # Any: JSON
    """Answer with one resource and its ETag, or with 304 when the client has just that."""
    body = json_bytes(view.model_dump(mode="json") if isinstance(view, BaseModel) else view)
    tag = etag_of(body)
    known = {"ETag": tag, "Cache-Control": "no-cache"} | dict(headers or {})
    if matches(request.headers.get("If-None-Match"), tag):
        return Response(status_code=304, headers=known)
    return Response(body, 200, known, JSON_TYPE)


def page_answer(page: Page[Any]) -> Response:  # Any: a view or JSON
    """Answer with one page of a list."""
    rows = [row.model_dump(mode="json") if isinstance(row, BaseModel) else row for row in page.rows]
    return json_answer(
        {"data": rows, "has_more": page.next_cursor is not None, "next_cursor": page.next_cursor}
    )


def etag_of(body: bytes) -> str:
    """Return a strong entity tag of some bytes."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(condition: str | None, tag: str) -> bool:
    """Tell whether an If-None-Match names the tag, by weak comparison (RFC 9110, 13.1.2)."""
    if condition is None:
        return False
    named = [one.strip().removeprefix("W/") for one in condition.split(",")]
    return "*" in named or tag.removeprefix("W/") in named
