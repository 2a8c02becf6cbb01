"""Watch every request from outside: when its answer is over, tell whoever wants to know."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CLIENT_CLOSED_REQUEST = 499
NO_ROUTE = "(none)"


@dataclass(frozen=True)
class AnsweredRequest:
    """A request whose answer has been sent; `route` is the template, such as /v1/jobs/{job_id}."""

    method: str
    path: str
    route: str
    ids: dict[str, str]
    client: str | None
    status: int
    elapsed_s: float
    sent_bytes: int


Observer = Callable[[AnsweredRequest], None]


class ObservedMiddleware:
    """A stream is told of when it ends; a client that left before its answer began counts as 499."""

    def __init__(self, app: ASGIApp, observers: Sequence[Observer]) -> None:
        self.app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        status, sent_bytes = _CLIENT_CLOSED_REQUEST, 0

        async def watch(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            status = 500  # the handler of unexpected errors stands outside of us, and answers so
            raise
        finally:
            seen = _describe(scope, status, time.monotonic() - started, sent_bytes)
            for observe in self._observers:
                observe(seen)


def _describe(scope: Scope, status: int, elapsed_s: float, sent_bytes: int) -> AnsweredRequest:
    client = scope.get("client")
    parameters = scope.get("path_params", {})
    return AnsweredRequest(
        method=scope["method"],
        path=scope["path"],
        route=getattr(scope.get("route"), "path_format", NO_ROUTE),
        ids={name: str(value) for name, value in parameters.items() if name.endswith("_id")},
        client=client[0] if client else None,
        status=status,
        elapsed_s=elapsed_s,
        sent_bytes=sent_bytes,
    )
