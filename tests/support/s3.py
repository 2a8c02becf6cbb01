"""S3 over a socket: moto as a process of its own, and a proxy before it that fails on demand."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import httpx

from app.core.config import Settings

KEYS = {"store_s3_access_key_id": "key", "store_s3_secret_access_key": "a secret word"}


class S3Server:
    """moto's server: conditional puts, multipart, ranges, signed URLs; everything in its memory."""

    def __enter__(self) -> Self:
        # It says on which free port it listens.
        code = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in self._process.stderr:
            if "Running on" in line:
                self.url = line.rpartition("Running on ")[2].split()[0].strip()
                break
        # What it says later must not fill the pipe.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def make_bucket(self) -> str:
        name = f"b{uuid.uuid4().hex}"
        httpx.put(f"{self.url}/{name}", trust_env=False).raise_for_status()
        return name

    def settings(self, bucket: str | None = None, **changes: object) -> dict[str, object]:
        """Return the settings of a store in a bucket of its own."""
        name = bucket or self.make_bucket()
        return {"store_url": f"s3://{name}/some/prefix", "store_s3_endpoint": self.url, **KEYS, **changes}


class FailingProxy:
    """Passes every request on to a server, unless `fault` answers it instead or changes the answer."""

    def __init__(self, target: str) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fault: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False
        self.change: Callable[[str, str, bytes], bytes] = lambda _method, _path, body: body
        proxy, http = self, httpx.Client(base_url=target, trust_env=False, timeout=60.0)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                proxy.asked.append((self.command, self.path))
                if proxy.fault(self):
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                answer = http.request(self.command, self.path, content=body, headers=headers)
                changed = proxy.change(self.command, self.path, answer.content)
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in (
                        "connection",
                        "transfer-encoding",
                        "content-length",
                        "server",
                        "date",
                    ):
                        self.send_header(name, value)
                is_head = self.command == "HEAD"
                size = answer.headers.get("Content-Length", "0") if is_head else str(len(changed))
                self.send_header("Content-Length", size)
                self.end_headers()
                if not is_head:
                    self.wfile.write(changed)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer_with(handler: BaseHTTPRequestHandler, status: int, code: str, *, after_s: float = 0.0) -> bool:
    """Answer as S3 says an error, after a while; True, as a fault that has answered."""
    time.sleep(after_s)
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/xml")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
    return True


def s3_settings(folder: object, server: S3Server, **changes: object) -> Settings:
    return Settings(data_dir=folder, **server.settings(**changes))
