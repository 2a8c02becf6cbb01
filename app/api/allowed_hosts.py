"""Answer only requests that name this service by a host that it goes by.

A service without keys trusts who reaches its port. A web page in a browser on this machine does too, once its
own name resolves to 127.0.0.1 (DNS rebinding): only the `Host` that the browser sends tells it apart.
"""

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import problem_response
from app.core.addresses import is_loopback
from app.core.config import Settings
from app.core.errors import MisdirectedRequest

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORT = re.compile(r":[0-9]*$")


class AllowedHostsMiddleware:
    """Answer 421 to what is for another host; any is ours where other machines may ask and none is named."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._hosts = _find_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._hosts is not None:
            request = Request(scope)
            found = request.headers.get("Host", "")
            if _PORT.sub("", found).lower() not in self._hosts:
                error = MisdirectedRequest(
                    f"expected a Host of {', '.join(sorted(self._hosts))}, found {found[:100]!a}; "
                    "SECATEUR_ALLOWED_HOSTS names more"
                )
                await problem_response(request, error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _find_hosts(settings: Settings) -> frozenset[str] | None:
    """Return the hosts without their ports, None where any will do."""
    if settings.allowed_hosts is None and not is_loopback(settings.host):
        return None
    listens_on = f"[{settings.host}]" if ":" in settings.host else settings.host
    return _LOOPBACK | {listens_on.lower()} | {name.lower() for name in settings.allowed_hosts or ()}
