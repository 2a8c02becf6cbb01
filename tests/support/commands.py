"""Secateur's commands in processes forked from one that has imported them: an interpreter takes seconds.

The module is what the fork server forks; tests call `Commands`.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import app.embedded
import app.main
import app.relay  # noqa: F401 (what a command would import first)
import worker.__main__
from app import cli
from tests.support.started import Started
from worker.forks.client import spawn_server

_MAINS = {"secateur": cli.main, "worker": worker.__main__.main}


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all it said."""

    returncode: int
    stdout: str
    stderr: str


class Commands:
    """Runs `secateur …` and `worker` as a shell would, with an environment of their own."""

    def __init__(self) -> None:
        self._forks = spawn_server("tests.support.commands", os.environ)

    def run(self, *command: str, env: Mapping[str, str]) -> Ended:
        """Run a command to its end."""
        stdout, stderr, returncode = Started(self._forks, json.dumps(dict(env)), *command).read()
        return Ended(returncode, stdout, stderr)

    def close(self) -> None:
        """End the server."""
        self._forks.close()


def main(arguments: list[str]) -> int:
    """Be the command."""
    environment, *command = arguments
    os.environ.clear()
    os.environ.update(json.loads(environment))
    sys.argv = command
    _MAINS[command[0]]()
    return 0
