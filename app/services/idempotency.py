"""Answer a repeated request with the first answer: the key's row commits with the row that was created."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.core.db import insert_into, now_plus
from app.core.errors import IdempotencyKeyReused
from app.core.tables import IdempotencyKey, JsonObject


@dataclass(frozen=True)
class KeyedRequest:
    """A request that may be repeated: where it went, the client's key, and what it said."""

    path: str
    key: str
    body_sha256: str


@dataclass(frozen=True)
class Answer:
    """What the client gets; `is_replayed` when it is the answer to an earlier request."""

    status: int
    body: JsonObject
    headers: dict[str, str] = field(default_factory=dict)
    is_replayed: bool = False


def answer_once(
    session: Session, request: KeyedRequest | None, create: Callable[[], Answer], *, ttl_s: float
) -> Answer:
    """Create and answer, or give the answer that the same request got before; without a key, just create.

    An error leaves no key, since the transaction is rolled back. Raises IdempotencyKeyReused.
    """
    if request is None:
        return create()
    if not _reserve(session, request, ttl_s=ttl_s):
        return _replay(session, request)
    answer = create()
    session.execute(
        update(IdempotencyKey)
        .where(IdempotencyKey.path == request.path, IdempotencyKey.key == request.key)
        .values(status=answer.status, response=answer.body, headers=answer.headers)
    )
    return answer


def _reserve(session: Session, request: KeyedRequest, *, ttl_s: float) -> bool:
    """Take the key, waiting for a request that holds it uncommitted; False when it is taken."""
    where = (IdempotencyKey.path == request.path) & (IdempotencyKey.key == request.key)
    session.execute(delete(IdempotencyKey).where(where, IdempotencyKey.created_at < now_plus(-ttl_s)))
    taken = session.execute(
        insert_into(session, IdempotencyKey)
        .values(
            path=request.path,
            key=request.key,
            body_sha256=request.body_sha256,
            status=0,
            response={},
            headers={},
        )
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    )
    return taken.one_or_none() is not None


def _replay(session: Session, request: KeyedRequest) -> Answer:
    row = session.scalars(
        select(IdempotencyKey).where(IdempotencyKey.path == request.path, IdempotencyKey.key == request.key)
    ).one()
    if row.body_sha256 != request.body_sha256:
        raise IdempotencyKeyReused(
            f"the key {request.key!r} was used for {request.path} with another body; "
            "use a new key for a new request"
        )
    return replace(Answer(row.status, row.response, dict(row.headers)), is_replayed=True)
