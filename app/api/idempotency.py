"""The Idempotency-Key header: read it, hold it while the request runs, answer by it."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Depends, Request, Response
from sqlalchemy.orm import Session

from app.api.answers import json_answer
from app.api.dependencies import PartsDep
from app.core.errors import BadRequest
from app.services.idempotency import Answer, KeyedRequest, answer_once

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Idempotency:
    """How the creating endpoint answers: once for a key, every time without one."""

    def __init__(self, path: str, key: str | None, ttl_s: float) -> None:
        self._path, self._key, self._ttl_s = path, key, ttl_s

    def answer(self, session: Session, body_sha256: str, create: Callable[[], Answer]) -> Response:
        """Create and answer, or repeat the first answer to the same key and body."""
        request = None if self._key is None else KeyedRequest(self._path, self._key, body_sha256)
        answer = answer_once(session, request, create, ttl_s=self._ttl_s)
        replayed = {"Idempotency-Replayed": "true"} if answer.is_replayed else {}
        return json_answer(answer.body, answer.status, answer.headers | replayed)


async def get_idempotency(request: Request, parts: PartsDep) -> AsyncIterator[Idempotency]:
    key = request.headers.get(HEADER)
    path = request.url.path
    ttl_s = float(parts.settings.idempotency_ttl_s)
    if key is None:
        yield Idempotency(path, None, ttl_s)
        return
    if not _KEY.fullmatch(key):
        raise BadRequest(f"{HEADER} must be 1 to 255 visible ASCII characters")
    with parts.keys_in_flight.hold(path, key):
        yield Idempotency(path, key, ttl_s)


# An endpoint names this before its session: dependencies end in reverse order, so the key is let go only when
# the row has committed.
IdempotencyDep = Annotated[Idempotency, Depends(get_idempotency, scope="function")]
