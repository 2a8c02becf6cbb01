"""Routes of webhooks and of what was sent to them."""

from fastapi import APIRouter, Request, Response

from app.api.answers import json_answer, page_answer, resource_answer
from app.api.dependencies import Cursor, DeliveryId, Limit, PartsDep, ReadingDep, SessionDep, WebhookId
from app.api.idempotency import IdempotencyDep
from app.api.json_body import JsonBody
from app.api.openapi import json_body
from app.api.views import PageView
from app.api.webhook_views import (
    DeliveryView,
    WebhookView,
    WebhookWithSecretView,
    view_delivery,
    view_webhook,
    view_with_secret,
)
from app.core.digests import sha256_of_json
from app.services import strict_json, webhooks
from app.services.idempotency import Answer
from app.services.webhooks import WebhookChange, WebhookRequest

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
_NO_BODY = sha256_of_json(None)


@router.post(
    "", status_code=201, response_model=WebhookWithSecretView, openapi_extra=json_body(WebhookRequest)
)
def create_webhook(body: JsonBody, parts: PartsDep, once: IdempotencyDep, session: SessionDep) -> Response:
    """Send the events of every job to a URL. The answer has the secret of its signatures, shown this once."""
    wanted = webhooks.read_request(body, parts.settings.sending_rules)

    def create() -> Answer:
        hook = webhooks.create(session, wanted)
        view = view_with_secret(hook).model_dump(mode="json")
        return Answer(201, view, {"Location": f"/v1/webhooks/{hook.id}"})

    return once.answer(session, sha256_of_json(strict_json.parse(body).value), create)


@router.get("", response_model=PageView[WebhookView])
def list_webhooks(session: ReadingDep, limit: Limit = 20, cursor: Cursor = None) -> Response:
    """List webhooks, newest first; the callbacks of single jobs are in their specs."""
    return page_answer(webhooks.find(session, limit=limit, cursor=cursor).map(view_webhook))


@router.get("/{webhook_id}", response_model=WebhookView)
def get_webhook(request: Request, webhook_id: WebhookId, session: ReadingDep) -> Response:
    """Get one webhook."""
    return resource_answer(request, view_webhook(webhooks.get(session, webhook_id)))


@router.patch("/{webhook_id}", response_model=WebhookView, openapi_extra=json_body(WebhookChange))
def change_webhook(webhook_id: WebhookId, body: JsonBody, parts: PartsDep, session: SessionDep) -> Response:
    """Change what the body names; `enabled: true` sends what has waited."""
    wanted = webhooks.read_change(body, parts.settings.sending_rules)
    return json_answer(view_webhook(webhooks.change(session, webhook_id, wanted)).model_dump(mode="json"))


@router.delete("/{webhook_id}", status_code=204, response_class=Response)
def delete_webhook(webhook_id: WebhookId, session: SessionDep) -> Response:
    """Delete a webhook and its deliveries."""
    webhooks.delete(session, webhook_id)
    return Response(status_code=204)


@router.post("/{webhook_id}/rotate_secret", response_model=WebhookWithSecretView)
def rotate_secret(webhook_id: WebhookId, once: IdempotencyDep, session: SessionDep) -> Response:
    """Get a new secret, shown this once; for a day messages carry a signature of the old one too."""

    def rotate() -> Answer:
        hook = webhooks.rotate_secret(session, webhook_id)
        return Answer(200, view_with_secret(hook).model_dump(mode="json"))

    return once.answer(session, _NO_BODY, rotate)


@router.post("/{webhook_id}/test", status_code=202, response_model=DeliveryView)
def test_webhook(webhook_id: WebhookId, once: IdempotencyDep, session: SessionDep) -> Response:
    """Send a message of type `webhook.test`; what becomes of it is among the deliveries."""

    def send() -> Answer:
        made = webhooks.send_test(session, webhook_id)
        return Answer(202, view_delivery(made).model_dump(mode="json"))

    return once.answer(session, _NO_BODY, send)


@router.get("/{webhook_id}/deliveries", response_model=PageView[DeliveryView])
def list_deliveries(
    webhook_id: WebhookId, session: ReadingDep, limit: Limit = 20, cursor: Cursor = None
) -> Response:
    """List what was sent, newest first: how often it was tried, what was answered, when it is tried next."""
    page = webhooks.find_deliveries(session, webhook_id, limit=limit, cursor=cursor)
    return page_answer(page.map(view_delivery))


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, response_model=DeliveryView)
def redeliver(webhook_id: WebhookId, delivery_id: DeliveryId, session: SessionDep) -> Response:
    """Send a message again with the same `webhook-id`, and from the start of the schedule."""
    found = webhooks.redeliver(session, webhook_id, delivery_id)
    return json_answer(view_delivery(found).model_dump(mode="json"), 202)
