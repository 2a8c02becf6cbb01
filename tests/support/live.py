"""The HTTP service behind a real socket: in a thread of the tests, or as a process of its own."""

import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import uvicorn
from fastapi import FastAPI

from app.core.config import Settings
from app.embedded import environment


class LiveServer:
    """Serves on a free port of 127.0.0.1 from entering to leaving the `with` block."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return self._socket.getsockname()[1]

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20.0, trust_env=False)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 20.0
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10.0)


class ApiProcess:
    """`secateur api` on a free port, from entering to leaving the `with` block."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._settings = settings.model_copy(update={"port": port})
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False)

    def peak_memory_bytes(self) -> int:
        """Return the most memory that the process has had resident so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "app.cli", "api"]
        self._process = subprocess.Popen(
            command, env=environment(self._settings), stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 30.0
        while True:
            try:
                self.http.get("/readyz").raise_for_status()
            except httpx.TransportError:
                assert self._process.poll() is None, self._process.stderr.read()
                assert time.monotonic() < deadline, "the process did not answer"
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.http.close()
        self._process.terminate()
        self._process.communicate(timeout=20)
