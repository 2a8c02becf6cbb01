"""Webhooks and deliveries as clients see them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.api.views import Moment
from app.core.tables import Webhook, WebhookDelivery


class WebhookView(BaseModel):
    """A webhook; `failing_since` is set while every try fails, and five days later it is disabled."""

    model_config = ConfigDict(frozen=True)

    id: str
    url: str
    events: list[str]
    description: str | None
    enabled: bool
    disabled_reason: str | None
    failing_since: Moment | None
    created_at: Moment


class WebhookWithSecretView(WebhookView):
    """A webhook with the secret of its signatures, which no other answer has."""

    secret: str


class DeliveryView(BaseModel):
    """A message; its id is the header `webhook-id` of every try."""

    model_config = ConfigDict(frozen=True)

    id: str
    job_id: str | None
    seq: int | None
    type: str
    state: Literal["pending", "delivered", "failed"]
    tries: int
    next_try_at: Moment | None
    last_try_at: Moment | None
    last_status: int | None
    last_error: str | None
    delivered_at: Moment | None
    created_at: Moment


def view_webhook(hook: Webhook) -> WebhookView:
    return WebhookView(**{name: getattr(hook, name) for name in WebhookView.model_fields})


def view_with_secret(hook: Webhook) -> WebhookWithSecretView:
    return WebhookWithSecretView(**{name: getattr(hook, name) for name in WebhookWithSecretView.model_fields})


def view_delivery(one: WebhookDelivery) -> DeliveryView:
    values = {name: getattr(one, name) for name in DeliveryView.model_fields}
    # Only what is still to be tried has a next time.
    return DeliveryView(**values | ({} if one.state == "pending" else {"next_try_at": None}))
