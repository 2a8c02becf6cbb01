"""Webhooks: create, find, change, rotate the secret, delete; their deliveries."""

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema
from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core import ids, webhooks
from app.core.addresses import RefusedUrl, SendingRules, check_url
from app.core.callbacks import ENDS, Callback, Events, Url
from app.core.db import now_plus
from app.core.errors import ErrorItem, InvalidSpec, InvalidWebhook, LimitReached, NotFound
from app.core.strict import Strict
from app.core.tables import JsonObject, Webhook, WebhookDelivery
from app.services import faults
from app.services.pages import Page, newest_first

MAX_WEBHOOKS = 100


class WebhookRequest(Strict):
    """What creates a webhook."""

    url: Url
    events: Events = ENDS
    description: str | None = Field(default=None, max_length=200)


class WebhookChange(Strict):
    """What is to be different; `enabled: true` sends again what has waited.

    Only a description may be null: it is taken away.
    """

    url: Url | SkipJsonSchema[None] = None
    events: Events | SkipJsonSchema[None] = None
    description: str | None = Field(default=None, max_length=200)
    enabled: bool | SkipJsonSchema[None] = None

    @field_validator("url", "events", "enabled", mode="after")
    @classmethod
    def _is_not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("null changes nothing: leave the field out, or give what it shall be")
        return value


def read_request(body: bytes, rules: SendingRules) -> WebhookRequest:
    """Read the body of a creation; raises MalformedJson or InvalidWebhook."""
    found = faults.read_json(body, WebhookRequest, InvalidWebhook, what="the webhook")
    _check_url(found.url, rules)
    return found


def read_change(body: bytes, rules: SendingRules) -> WebhookChange:
    """Read the body of a change; raises MalformedJson or InvalidWebhook."""
    found = faults.read_json(body, WebhookChange, InvalidWebhook, what="the change")
    if found.url is not None:
        _check_url(found.url, rules)
    return found


def create(session: Session, wanted: WebhookRequest) -> Webhook:
    """Add a webhook with a secret of its own. Raises LimitReached: every event asks every webhook."""
    count = session.scalar(select(func.count()).where(Webhook.job_id.is_(None))) or 0
    if count >= MAX_WEBHOOKS:
        raise LimitReached(f"there are {count} webhooks, at most {MAX_WEBHOOKS} may be; delete one")
    hook = Webhook(
        id=ids.new_id("whk"),
        url=wanted.url,
        events=list(wanted.events),
        description=wanted.description,
        secret=webhooks.make_secret(),
    )
    session.add(hook)
    session.flush()
    session.refresh(hook)
    return hook


def check_callbacks(callbacks: tuple[Callback, ...], rules: SendingRules) -> None:
    """Raise InvalidSpec that names each callback that nothing may be sent to."""
    items = []
    for i, one in enumerate(callbacks):
        try:
            check_url(one.url, rules)
        except RefusedUrl as error:
            items.append(ErrorItem(pointer=f"/callbacks/{i}/url", code="refused_url", detail=str(error)))
    if items:
        raise faults.refusal(InvalidSpec, items, what="the spec")


def add_callbacks(session: Session, job_id: str, callbacks: tuple[Callback, ...]) -> None:
    """Add the webhooks of one job."""
    for one in callbacks:
        session.add(
            Webhook(
                id=ids.new_id("whk"), url=one.url, events=list(one.events), secret=one.secret, job_id=job_id
            )
        )


def without_secrets(spec: JsonObject) -> JsonObject:
    """Return a spec as it was sent, but for the secrets of its callbacks: they are kept apart."""
    callbacks = spec.get("callbacks")
    if not callbacks:
        return spec
    shown = [{name: value for name, value in one.items() if name != "secret"} for one in callbacks]
    return spec | {"callbacks": shown}


def get(session: Session, webhook_id: str) -> Webhook:
    """Return a webhook; raises NotFound. The callbacks of jobs are not among them."""
    hook = session.scalar(select(Webhook).where(Webhook.id == webhook_id, Webhook.job_id.is_(None)))
    if hook is None:
        raise NotFound(f"there is no webhook {webhook_id}")
    return hook


def find(session: Session, *, limit: int, cursor: str | None) -> Page[Webhook]:
    """List webhooks, newest first."""
    query = select(Webhook).where(Webhook.job_id.is_(None))
    return newest_first(session, query, Webhook, limit=limit, cursor=cursor)


def change(session: Session, webhook_id: str, wanted: WebhookChange) -> Webhook:
    """Change what is given; to enable a webhook forgets that it has failed. Raises NotFound."""
    hook = get(session, webhook_id)
    given = wanted.model_dump(exclude_unset=True, mode="json")
    for name, value in given.items():
        setattr(hook, name, value)
    if wanted.enabled:
        hook.disabled_reason, hook.failing_since = None, None
    elif wanted.enabled is False:
        hook.disabled_reason = "disabled by request"
    session.flush()
    session.refresh(hook)
    return hook


def rotate_secret(session: Session, webhook_id: str) -> Webhook:
    """Give the webhook a new secret; for a day messages are signed with the old one too. Raises NotFound."""
    hook = get(session, webhook_id)
    session.execute(
        update(Webhook)
        .where(Webhook.id == webhook_id)
        .values(
            secret=webhooks.make_secret(),
            old_secret=hook.secret,
            old_secret_until=now_plus(webhooks.ROTATION_S),
        )
    )
    session.refresh(hook)
    return hook


def delete(session: Session, webhook_id: str) -> None:
    """Delete a webhook and its deliveries; what is being sent may still arrive. Raises NotFound."""
    get(session, webhook_id)
    session.execute(delete_rows(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id))
    session.execute(delete_rows(Webhook).where(Webhook.id == webhook_id))


def find_deliveries(
    session: Session, webhook_id: str, *, limit: int, cursor: str | None
) -> Page[WebhookDelivery]:
    """List the deliveries of a webhook, newest first; raises NotFound."""
    get(session, webhook_id)
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    return newest_first(session, query, WebhookDelivery, limit=limit, cursor=cursor)


def send_test(session: Session, webhook_id: str) -> WebhookDelivery:
    """Queue a message that tells of nothing; raises NotFound."""
    get(session, webhook_id)
    return webhooks.put_test(session, webhook_id)


def redeliver(session: Session, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Send a message again, whatever became of it, with the same id; raises NotFound."""
    get(session, webhook_id)
    found = session.scalar(
        select(WebhookDelivery).where(
            WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id
        )
    )
    if found is None:
        raise NotFound(f"webhook {webhook_id} has no delivery {delivery_id}")
    webhooks.redeliver(session, delivery_id)
    session.refresh(found)
    return found


def _check_url(url: str, rules: SendingRules) -> None:
    try:
        check_url(url, rules)
    except RefusedUrl as error:
        item = ErrorItem(pointer="/url", code="refused_url", detail=str(error))
        raise faults.refusal(InvalidWebhook, [item], what="the webhook") from error
