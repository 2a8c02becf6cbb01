"""A receiver of webhooks: a real HTTP server that keeps what it got and answers as it is told."""

import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict:
        return json.loads(self.body)["data"]

    def is_signed_with(self, secret: str) -> bool:
        """Check the signature as a receiver does; raises what a receiver's library raises."""
        Webhook(secret).verify(self.body, self.headers)
        return True


class Receiver:
    """Listens on a free port of 127.0.0.1 within the `with` block; `answer` gives a status for a request."""

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], int] = lambda _: 204
        self.closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Received(self.path, headers, body)
                receiver.received.append(got)
                if self.path == "/hang":
                    receiver.closing.wait(60)
                elif self.path == "/drip":
                    self._drip()
                else:
                    status = receiver.answer(got)
                    self.send_response(status)
                    if 300 <= status < 400:
                        self.send_header("Location", f"{receiver.url}/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def _drip(self) -> None:
                """Send a header that never ends, a byte at a time: no single read ever times out."""
                try:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                    while not receiver.closing.wait(0.05):
                        self.wfile.write(b"a")
                        self.wfile.flush()
                except OSError:
                    return

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if context is not None:
            self._scheme = "https"
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def got(self, event: str | None = None) -> list[Received]:
        """Return what has arrived, of one type when that is given."""
        return [one for one in list(self.received) if event in (None, json.loads(one.body)["type"])]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
