"""Embedded mode: one command that runs the whole service on one machine, out of one folder."""

import fcntl
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from app import valkey
from app.children import Child
from app.core import job_returns, schema
from app.core.config import Settings
from app.core.db import make_engine, make_sessions
from app.core.job_writes import name_owner
from app.core.startup import check_database_answers, check_parts, refuse_open_network

_log = logging.getLogger(__name__)
_READY_WITHIN_S = 60.0


class CannotServe(Exception):
    """The service cannot be started; the message says why and what to do."""


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Run Valkey, API, relay and worker until SIGTERM or Ctrl-C; everything written is under data_dir.

    Raises CannotServe or CannotStart with a sentence for the user.
    """
    refuse_open_network(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _exclusive(settings):
        settings = _with_free_port(settings)
        _migrate(settings)
        # Here, where it is said in a sentence, and not in the logs of three children.
        check_parts(settings)
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
                child.stop(grace_s=max(settings.kill_grace_s, settings.shutdown_grace_s) + 5.0)


def environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with every setting in it, for a child that reads them again."""
    values = settings.model_dump(mode="json", exclude_none=True)
    values |= {name: one.get_secret_value() for name, one in settings if isinstance(one, SecretStr)}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return dict(os.environ) | {f"SECATEUR_{name.upper()}": text for name, text in texts.items()}


def _migrate(settings: Settings) -> None:
    check_database_answers(settings)
    engine = make_engine(settings.database_url)
    try:
        schema.upgrade(engine)
    except schema.SchemaTooNew as error:
        raise CannotServe(str(error)) from error
    finally:
        engine.dispose()


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
    # They all start at once, and the broker is one of them.
    patient = settings.model_copy(update={"start_wait_s": max(settings.start_wait_s, _READY_WITHIN_S / 2)})
    # The only worker is the one here: what it has not, no worker has.
    devices = ["cpu"] if settings.worker_device == "cpu" else ["cpu", "cuda"]
    env = environment(patient.model_copy(update={"devices": settings.devices or devices}))
    programs = {
        "api": [sys.executable, "-m", "app.cli", "api"],
        "relay": [sys.executable, "-m", "app.cli", "relay"],
        "worker": [sys.executable, "-m", "worker"],
    }
    children += [Child(name, cmd, env, logs / f"{name}.log") for name, cmd in programs.items()]
    children[-1].on_death = lambda pid: _end_leases(settings, pid)
    return children


def _end_leases(settings: Settings, pid: int) -> None:
    """Have the jobs of a worker that died taken back at once, before their leases run out."""
    engine = make_engine(settings.database_url)
    try:
        with make_sessions(engine).begin() as session:
            job_returns.end_leases_of(session, name_owner(pid))
    except SQLAlchemyError as error:
        _log.warning("leases of the dead worker stay", extra={"pid": pid, "error": str(error)})
    finally:
        engine.dispose()


def _wait_until_ready(settings: Settings, children: list[Child], stop: threading.Event) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    # One client for all questions: to make one reads every certificate, 50 ms that the children could use.
    with httpx.Client(base_url=_url(settings), timeout=5.0, trust_env=False) as http:
        while not stop.is_set() and not _is_ready(http):
            dead = [c for c in children if c.process is not None and c.process.poll() is not None]
            if dead or time.monotonic() > deadline:
                name = dead[0].name if dead else "api"
                log = settings.data_dir / "logs" / f"{name}.log"
                raise CannotServe(f"{name} did not start; its log is {log}")
            stop.wait(0.1)


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


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
