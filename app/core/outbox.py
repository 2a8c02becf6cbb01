"""The outbox: hints written with the rows they speak of, and published to the broker afterwards."""

from collections.abc import Callable

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.core.db import Sessions, now_plus
from app.core.tables import OutboxMessage

Publish = Callable[[str, str], None]
KEEP_PUBLISHED_S = 3600.0


def put(session: Session, task: str, ref: str) -> None:
    """Write a hint into the caller's transaction: run `task` for the row with id `ref`."""
    session.add(OutboxMessage(task=task, ref=ref))


def publish_pending(sessions: Sessions, publish: Publish, *, limit: int = 100) -> int:
    """Publish what waits, oldest first, and mark it.

    No transaction is open while the broker is spoken to: a slow broker must not hold the database. Two
    relays, or a crash before the mark, publish a message twice, which is harmless. Raises whatever
    `publish` raises: what was not marked waits for the next call.
    """
    with sessions() as session:
        waiting = session.execute(
            select(OutboxMessage.id, OutboxMessage.task, OutboxMessage.ref)
            .where(OutboxMessage.published_at.is_(None))
            .order_by(OutboxMessage.id)
            .limit(limit)
        ).all()
    published: list[int] = []
    try:
        for message_id, task, ref in waiting:
            publish(task, ref)
            published.append(message_id)
    finally:
        if published:
            with sessions.begin() as session:
                session.execute(
                    update(OutboxMessage)
                    .where(OutboxMessage.id.in_(published))
                    .values(published_at=now_plus())
                )
    return len(published)


def forget_published(session: Session) -> None:
    """Delete what was published long ago."""
    session.execute(delete(OutboxMessage).where(OutboxMessage.published_at < now_plus(-KEEP_PUBLISHED_S)))
