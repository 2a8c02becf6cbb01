"""The messages to webhooks: written with the event they tell of, tried until one is taken or time is up."""

import base64
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from app.core.callbacks import JobEventName
from app.core.db import now_plus
from app.core.ids import new_id
from app.core.tables import Webhook, WebhookDelivery

EVERYTHING = "*"
# What may be asked for. Progress is not sent: it comes once a second.
EVENTS = frozenset(get_args(JobEventName)) - {EVERYTHING}
TEST_EVENT = "webhook.test"
# The schedule of Standard Webhooks: eight tries over 27.6 hours.
RETRY_AFTER_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0)
DISABLE_AFTER_S = 5 * 86_400.0
ROTATION_S = 86_400.0
KEEP_ENDED_S = 30 * 86_400.0
_GONE = 410
_SECRET_BYTES = 32
_MAX_ERROR_CHARACTERS = 200


@dataclass(frozen=True)
class JobNotice:
    """An event of a job, as far as a message tells of it."""

    job_id: str
    seq: int
    type: str
    status: str
    stage: str | None
    at: datetime
    data: dict[str, Any]  # Any: JSON of an event


@dataclass(frozen=True)
class Sending:
    """One try at a delivery, taken by one relay; `secrets` signs it with each, none when there is none."""

    delivery_id: str
    webhook_id: str
    job_id: str | None
    url: str
    secrets: tuple[str, ...]
    payload: str
    number: int
    at: datetime


def make_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def put(session: Session, notice: JobNotice) -> None:
    """Write a message for each webhook that wants the event, into the event's own transaction."""
    if notice.type not in EVENTS:
        return
    whose = or_(Webhook.job_id.is_(None), Webhook.job_id == notice.job_id)
    # Whoever deletes one of them waits: a message to none would cost the event, and its job an attempt.
    wanting = select(Webhook.id, Webhook.events).where(whose, Webhook.enabled)
    rows = session.execute(wanting.with_for_update(read=True, key_share=True)).all()
    wanted = [row.id for row in rows if notice.type in row.events or EVERYTHING in row.events]
    if not wanted:
        return
    payload = _payload(notice.type, notice.at, _describe(notice))
    for webhook_id in wanted:
        session.add(
            WebhookDelivery(
                id=new_id("msg"),
                webhook_id=webhook_id,
                job_id=notice.job_id,
                seq=notice.seq,
                type=notice.type,
                payload=payload,
            )
        )


def put_test(session: Session, webhook_id: str) -> WebhookDelivery:
    """Write a message that tells of nothing."""
    now = session.scalar(select(now_plus()))
    assert now is not None
    payload = _payload(TEST_EVENT, now, {"webhook_id": webhook_id})
    made = WebhookDelivery(id=new_id("msg"), webhook_id=webhook_id, type=TEST_EVENT, payload=payload)
    session.add(made)
    session.flush()
    session.refresh(made)
    return made


def redeliver(session: Session, delivery_id: str) -> None:
    """Send a message once more, from the start of its schedule and with the same id."""
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id)
        .values(state="pending", tries=0, next_try_at=now_plus(), delivered_at=None)
    )


def take_due(
    session: Session, *, limit: int, busy: Collection[str], per_webhook: int, hold_s: float
) -> list[Sending]:
    """Take messages whose time has come, a few of each webhook; another relay sees them `hold_s` later.

    A relay that dies while it sends leaves them to be sent again: at least once, with the same id.
    """
    # Asked several times a second, and nearly always in vain: one look into an index.
    is_enabled = exists().where(Webhook.id == WebhookDelivery.webhook_id, Webhook.enabled)
    if session.scalar(select(WebhookDelivery.id).where(_is_due(), is_enabled).limit(1)) is None:
        return []
    place = func.row_number().over(
        partition_by=WebhookDelivery.webhook_id, order_by=(WebhookDelivery.next_try_at, WebhookDelivery.id)
    )
    due = (
        select(WebhookDelivery.id, WebhookDelivery.next_try_at, place.label("place"))
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(_is_due(), Webhook.enabled, Webhook.id.not_in(tuple(busy)))
        .subquery()
    )
    ids = session.scalars(
        select(due.c.id).where(due.c.place <= per_webhook).order_by(due.c.next_try_at, due.c.id).limit(limit)
    ).all()
    return [sending for one in ids if (sending := _take(session, one, hold_s=hold_s)) is not None]


def record_taken(session: Session, sending: Sending, status: int) -> None:
    """Write down that the receiver took the message."""
    ended = session.execute(
        update(WebhookDelivery)
        .where(_is_this_try(sending))
        .values(state="delivered", delivered_at=now_plus(), last_status=status, last_error=None)
        .returning(WebhookDelivery.id)
    ).one_or_none()
    if ended is not None:
        session.execute(update(Webhook).where(Webhook.id == sending.webhook_id).values(failing_since=None))


def record_failure(session: Session, sending: Sending, status: int | None, error: str) -> None:
    """Write down that a try failed: the next one is due by the schedule, after the last one there is none.

    A webhook that has only failed for days, or that says it is gone (410), is sent nothing more.
    """
    values: dict[str, Any] = {  # Any: column values
        "last_status": status,
        "last_error": error[:_MAX_ERROR_CHARACTERS],
    }
    if sending.number > len(RETRY_AFTER_S):
        values["state"] = "failed"
    else:
        values["next_try_at"] = now_plus(RETRY_AFTER_S[sending.number - 1])
    ended = session.execute(
        update(WebhookDelivery).where(_is_this_try(sending)).values(**values).returning(WebhookDelivery.id)
    ).one_or_none()
    if ended is None:
        return
    hook = update(Webhook).where(Webhook.id == sending.webhook_id)
    session.execute(hook.values(failing_since=func.coalesce(Webhook.failing_since, now_plus())))
    if status == _GONE:
        session.execute(hook.values(enabled=False, disabled_reason="it answered 410 Gone"))
    else:
        too_long = hook.where(Webhook.enabled, Webhook.failing_since < now_plus(-DISABLE_AFTER_S))
        session.execute(too_long.values(enabled=False, disabled_reason="every try failed for five days"))


def forget_ended(session: Session) -> None:
    """Delete what was delivered or given up long ago, and the secret that a rotation has replaced."""
    ended = WebhookDelivery.state.in_(("delivered", "failed"))
    session.execute(
        delete(WebhookDelivery).where(ended, WebhookDelivery.created_at < now_plus(-KEEP_ENDED_S))
    )
    over = update(Webhook).where(Webhook.old_secret_until < now_plus())
    session.execute(over.values(old_secret=None, old_secret_until=None))


def _take(session: Session, delivery_id: str, *, hold_s: float) -> Sending | None:
    taken = session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, _is_due())
        .values(tries=WebhookDelivery.tries + 1, next_try_at=now_plus(hold_s), last_try_at=now_plus())
        .returning(
            WebhookDelivery.webhook_id,
            WebhookDelivery.job_id,
            WebhookDelivery.payload,
            WebhookDelivery.tries,
            WebhookDelivery.last_try_at,
        )
    ).one_or_none()
    if taken is None:
        return None
    hook = session.execute(
        select(
            Webhook.url,
            Webhook.secret,
            Webhook.old_secret,
            (Webhook.old_secret_until > now_plus()).label("old_counts"),
        ).where(Webhook.id == taken.webhook_id)
    ).one()
    signing = (hook.secret, hook.old_secret if hook.old_counts else None)
    return Sending(
        delivery_id=delivery_id,
        webhook_id=taken.webhook_id,
        job_id=taken.job_id,
        url=hook.url,
        secrets=tuple(one for one in signing if one),
        payload=taken.payload,
        number=taken.tries,
        at=taken.last_try_at,
    )


def _is_due() -> ColumnElement[bool]:
    return (WebhookDelivery.state == "pending") & (WebhookDelivery.next_try_at <= now_plus())


def _is_this_try(sending: Sending) -> ColumnElement[bool]:
    """A try that another relay has begun since, or a redelivery, is not this one's to end."""
    return (
        (WebhookDelivery.id == sending.delivery_id)
        & (WebhookDelivery.state == "pending")
        & (WebhookDelivery.tries == sending.number)
    )


def _describe(notice: JobNotice) -> dict[str, Any]:  # Any: JSON
    """Keep it thin: who wants more asks for the job. `seq` gives the order, which sending does not keep."""
    told = {"job_id": notice.job_id, "status": notice.status, "seq": notice.seq, "stage": notice.stage}
    if isinstance(gates := notice.data.get("gates"), str):
        told["gates"] = gates
    if isinstance(error := notice.data.get("error"), dict):
        told["error_code"] = error.get("code")
    return told


def _payload(event: str, at: datetime, data: dict[str, Any]) -> str:  # Any: JSON
    moment = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": event, "timestamp": moment, "data": data}, separators=(",", ":"))
