"""Run a compose file without containers: its commands and its environment, as plain processes.

Only addresses are translated, since there is no network of containers: host names and folders that the file
names become those of this machine.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:-|:\?)(?P<rest>[^}]*))?\})")
_PROGRAMS = {"secateur": [sys.executable, "-m", "app.cli"], "python": [sys.executable]}
_SECONDS = re.compile(r"(\d+)s")


class MissingVariable(Exception):
    """The compose file asks for a variable that was not given."""


def read_compose(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read the file as compose does: anchors, merges, then `${VAR}`, `${VAR:-default}`, `${VAR:?message}`."""
    return _fill_in(yaml.safe_load(path.read_text()), variables)


def _fill_in(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill_in(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [_fill_in(one, variables) for one in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found[0] == "$$":
        return "$"
    given = variables.get(found["name"], "")
    if not given and found["how"] == ":?":
        raise MissingVariable(f"{found['name']}: {found['rest']}")
    return given or (found["rest"] or "" if found["how"] == ":-" else "")


class Image:
    """One target of the Dockerfile: what its stages say of environment, command, user and health."""

    def __init__(self, dockerfile: Path, target: str) -> None:
        text = re.sub(r"\\\n\s*", " ", dockerfile.read_text())
        stages: dict[str, tuple[str, list[str]]] = {}
        name = ""
        for line in text.splitlines():
            if start := re.match(r"FROM (\S+) AS (\S+)", line):
                name = start[2]
                stages[name] = (start[1], [])
            elif name and line.strip() and not line.startswith("#"):
                stages[name][1].append(line)
        lines: list[str] = []
        while target in stages:
            parent, own = stages[target]
            lines, target = own + lines, parent
        self.environment = dict(
            pair.split("=", 1) for line in lines if line.startswith("ENV ") for pair in line[4:].split()
        )
        self.command = json.loads(self._last(lines, "CMD "))
        self.user = self._last(lines, "USER ")
        self.health = json.loads(self._last(lines, "HEALTHCHECK ").partition("CMD ")[2])

    def _last(self, lines: list[str], word: str) -> str:
        return next(line.removeprefix(word) for line in reversed(lines) if line.startswith(word))


class Composed:
    """The services of a compose file that are built from this repository, run one by one."""

    def __init__(
        self, compose: dict[str, Any], root: Path, folder: Path, *, addresses: Mapping[str, str]
    ) -> None:
        self._services = compose["services"]
        self._root = root
        self._folder = folder
        self._addresses = addresses
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def names(self) -> list[str]:
        """Return the services that run without a profile, those that others wait for first."""
        found = [n for n, one in self._services.items() if "build" in one and "profiles" not in one]
        return sorted(found, key=lambda name: len(self._services[name].get("depends_on", ())))

    def image(self, name: str) -> Image:
        return Image(self._root / "Dockerfile", self._services[name]["build"]["target"])

    def command(self, name: str) -> list[str]:
        return self._translate(self._services[name].get("command", self.image(name).command))

    def environment(self, name: str, extra: Mapping[str, str]) -> dict[str, str]:
        """Return what the container would have: of the image, then of the file; nothing of ours."""
        given = self.image(name).environment | self._services[name].get("environment", {})
        own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self._root), "OMP_NUM_THREADS": "1"}
        return own | {key: self._local(str(value)) for key, value in given.items()} | extra

    def run(self, name: str, **extra: str) -> int:
        """Run a service to its end; returns its exit code."""
        self.start(name, **extra)
        return self.processes.pop(name).wait(120)

    def start(self, name: str, **extra: str) -> None:
        work = self._folder / name
        work.mkdir(exist_ok=True)
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name),
                env=self.environment(name, extra),
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_healthy(self, name: str, **extra: str) -> bool:
        """Run the service's health check as the engine would."""
        check = self._services[name].get("healthcheck", {}).get("test") or ["CMD", *self.image(name).health]
        assert check[0] == "CMD"
        env = self.environment(name, extra)
        done = subprocess.run(self._translate(check[1:]), env=env, capture_output=True, timeout=60)
        return done.returncode == 0

    def stop(self, name: str) -> int:
        """SIGTERM, and as much time as the file grants; returns the exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(int(_SECONDS.fullmatch(self._services[name]["stop_grace_period"])[1]))

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _translate(self, command: list[str]) -> list[str]:
        return [*_PROGRAMS[command[0]], *command[1:]]

    def _local(self, value: str) -> str:
        """Translate in one pass: what an address becomes may itself look like another one."""
        known = "|".join(map(re.escape, self._addresses))
        return re.sub(known, lambda found: self._addresses[found[0]], value)
