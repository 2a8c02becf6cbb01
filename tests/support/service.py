"""Start Secateur's real processes on a given database and broker, and hurt them one at a time."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from app import valkey
from app.core import schema
from app.core.config import Settings
from app.core.db import make_engine
from app.embedded import environment
from tests.support.runners import find_runners

_COMMANDS = {
    "api": [sys.executable, "-m", "app.cli", "api"],
    "relay": [sys.executable, "-m", "app.cli", "relay"],
    "worker": [sys.executable, "-m", "worker"],
}
T = TypeVar("T")


class Service:
    """API, relay and worker as separate processes over one database, one Valkey and one store."""

    def __init__(self, folder: Path, database_url: str, **changes: object) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = valkey.socket_path(folder)
        values = {
            "data_dir": folder,
            "database_url": database_url,
            "broker_url": valkey.broker_url(self._socket),
            "port": _free_port(),
            # Short, so that a test sees a takeover soon, but no busy machine misses every beat of it.
            "lease_s": 12.0,
            "beat_s": 0.5,
            "sweep_s": 0.3,
            "kill_grace_s": 2.0,
        }
        self.settings = Settings(**(values | changes))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # Whoever makes one for every question reads the certificates for every question.
        self._http = httpx.Client(base_url=self.url, timeout=5.0, trust_env=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def start(self) -> None:
        if self.settings.broker_url.startswith("redis"):
            self.restart_valkey()
        engine = make_engine(self.settings.database_url)
        schema.upgrade(engine)
        engine.dispose()
        for name in _COMMANDS:
            self.start_one(name)
        wait_for(lambda: self._is_ready(), "the service to be ready", within_s=60.0)

    def restart_valkey(self) -> None:
        binary = valkey.find_binary()
        assert binary is not None
        command = valkey.server_command(binary, self.folder, self._socket)
        self.processes["valkey"] = self._spawn("valkey", command)

    def start_one(self, name: str) -> None:
        self.processes[name] = self._spawn(name, _COMMANDS[name])

    def kill(self, name: str) -> None:
        """SIGKILL one process; what it started is left to fend for itself, as on a real machine."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def terminate(self, name: str) -> int:
        """SIGTERM one process; returns its exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(60)

    def runners(self) -> list[psutil.Process]:
        """Return the live runner processes of this service, wherever in the process tree they are."""
        return [process for process, _ in find_runners(self.settings.work_dir)]

    def kill_runner(self, *, within_s: float = 60.0) -> None:
        """Wait for a runner and SIGKILL it."""
        wait_for(lambda: self.runners(), "a runner", within_s=within_s)[0].send_signal(signal.SIGKILL)

    def stop(self) -> None:
        for name in ("worker", "relay", "api", "valkey"):
            process = self.processes.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for runner in self.runners():
            with contextlib.suppress(psutil.NoSuchProcess):
                runner.kill()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        env = environment(self.settings) | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _is_ready(self) -> bool:
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            if self.processes["api"].poll() is not None:
                raise RuntimeError(self.log("api")) from None
            return False


def wait_for(question: Callable[[], T], what: str, *, within_s: float = 60.0) -> T:
    """Ask until the answer is true; the limit only ends a test that would never end."""
    deadline = time.monotonic() + within_s
    while True:
        if answer := question():
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_s} s for {what}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
