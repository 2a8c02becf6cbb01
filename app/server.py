"""Run the API: listen, serve until SIGTERM, let what runs come to its end."""

import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.core.config import Settings
from app.core.startup import CannotStart, refuse_open_network
from app.main import create_app


def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that run then have `shutdown_grace_s`. Raises CannotStart."""
    refuse_open_network(settings)
    app = create_app(settings)
    listening = _listen(settings)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=settings.shutdown_grace_s
    )
    # uvicorn raises the signal again when it is done, which would end a clean stop with an error code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = _Server(config, app)
    server.run([listening])
    if not server.started:
        raise CannotStart("the API could not start; the log above says why")


class _Server(uvicorn.Server):
    """Tells streams and long polls that the process shall end: they would hold it to the last second."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.closing.set()
        super().handle_exit(sig, frame)


def _listen(settings: Settings) -> socket.socket:
    try:
        return socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=2048,
        )
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}): "
            "stop what listens there, or set SECATEUR_HOST and SECATEUR_PORT"
        ) from error
