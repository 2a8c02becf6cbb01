"""Give every request an id: the client's, when it is well formed, otherwise a new one."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.ids import new_id
from app.core.logs import log_fields

HEADER = "Request-Id"
_WELL_FORMED = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class RequestIdMiddleware:
    """Put the id into the scope, and on the response whoever makes it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _WELL_FORMED.fullmatch(given) else new_id("req")
        # The same dictionary goes to the handler of unexpected errors, which stands outside of us.
        scope["secateur.request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with log_fields(request_id=request_id):
            await self.app(scope, receive, send_with_id)


def request_id_of(scope: Scope) -> str | None:
    """Return the id of the request, None outside of the middleware."""
    found = scope.get("secateur.request_id")
    return found if isinstance(found, str) else None
