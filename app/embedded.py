"""Embedded mode: one command that runs the whole service on one machine, out of one folder."""

import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import httpx

from app import valkey
from app.children import Child
from app.core import schema
from app.core.config import Settings
from app.core.db import make_engine

_log = logging.getLogger(__name__)
_READY_WITHIN_S = 60.0


class CannotServe(Exception):
    """The service cannot be started; the message says why and what to do."""


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Run Valkey, API, relay and worker until SIGTERM or Ctrl-C; everything written is under data_dir.

    Raises CannotServe with a sentence for the user.
    """
    _refuse_open_network(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _exclusive(settings):
        settings = _with_free_port(settings)
        engine = make_engine(settings.database_url)
        schema.upgrade(engine)
        engine.dispose()
        children = _children(settings)
        try:
            for child in children:
                child.start()
            _wait_until_ready(settings, children, stop)
            if not stop.is_set():
                announce(
                    f"Secateur is ready on {_url(settings)} (data in {settings.data_dir}, stop with Ctrl-C)"
                )
            while not stop.wait(0.5):
                for child in children:
                    child.restart_if_dead()
        finally:
            # Last started, first stopped: the worker gives its jobs back while the rest still runs.
            for child in reversed(children):
                child.stop(grace_s=settings.kill_grace_s + 5.0)


def environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with every setting in it, for a child that reads them again."""
    values = settings.model_dump(mode="json")
    return dict(os.environ) | {f"SECATEUR_{name.upper()}": str(value) for name, value in values.items()}


def _children(settings: Settings) -> list[Child]:
    logs = settings.data_dir / "logs"
    logs.mkdir(exist_ok=True)
    children = []
    binary = valkey.find_binary()
    if settings.broker_url.startswith("filesystem://") and binary is not None:
        path = valkey.socket_path(settings.data_dir)
        settings = settings.model_copy(update={"broker_url": valkey.broker_url(path)})
        command = valkey.server_command(binary, settings.data_dir, path)
        children.append(Child("valkey", command, {}, logs / "valkey.log"))
    env = environment(settings)
    programs = {
        "api": [sys.executable, "-m", "app.cli", "api"],
        "relay": [sys.executable, "-m", "app.cli", "relay"],
        "worker": [sys.executable, "-m", "worker"],
    }
    return children + [Child(name, cmd, env, logs / f"{name}.log") for name, cmd in programs.items()]


def _wait_until_ready(settings: Settings, children: list[Child], stop: threading.Event) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while not stop.is_set():
        try:
            if (
                httpx.get(f"{_url(settings)}/readyz", timeout=5.0, trust_env=False).status_code
                == httpx.codes.OK
            ):
                return
        except httpx.TransportError:
            pass
        dead = [c for c in children if c.process is not None and c.process.poll() is not None]
        if dead or time.monotonic() > deadline:
            name = dead[0].name if dead else "api"
            raise CannotServe(f"{name} did not start; its log is {settings.data_dir / 'logs' / name}.log")
        stop.wait(0.1)


def _refuse_open_network(settings: Settings) -> None:
    """There are no keys yet: whoever reaches the port can use the service, so only this machine may."""
    try:
        loopback = settings.host == "localhost" or ip_address(settings.host).is_loopback
    except ValueError as error:
        raise CannotServe(f"host: expected an address such as 127.0.0.1, found {settings.host!r}") from error
    if not loopback and not settings.allow_anonymous_network:
        raise CannotServe(
            f"{settings.host} can be reached by others, and this version has no keys: "
            "serve on 127.0.0.1, or set SECATEUR_ALLOW_ANONYMOUS_NETWORK=true behind a proxy with keys"
        )


@contextmanager
def _exclusive(settings: Settings) -> Iterator[None]:
    """Hold the data folder: two services on one folder would fight over its broker and its port."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (settings.data_dir / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotServe(f"another `secateur serve` already uses {settings.data_dir}") from error
        yield


def _with_free_port(settings: Settings) -> Settings:
    """Replace port 0 by a free one, and say at once when the port is taken."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise CannotServe(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
            ) from error
        return settings.model_copy(update={"port": probe.getsockname()[1]})


def _url(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"
