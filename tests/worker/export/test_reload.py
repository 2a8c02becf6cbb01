"""The process that checks an exported file, forked as a runner forks it."""

import os
import subprocess
import sys

import pytest

from app.core.errors import Unavailable
from app.core.spec import Evaluation
from worker.export.reload import ReloadRequest, reload_in_clean_process
from worker.forks.client import LOST
from worker.protocol import ModelInput


class Ended:
    """A process that has ended, with this exit code."""

    pid = 1

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode


class Ends:
    """Starts a process that has ended already."""

    def __init__(self, returncode: int) -> None:
        self._returncode = returncode

    def prepare(self) -> None:
        """There is nothing to prepare."""

    def start(self, arguments, *, imports=(), stdin: int, stdout: int, stderr: int) -> Ended:
        return Ended(self._returncode)


def make_request() -> ReloadRequest:
    model = ModelInput(format="safetensors", architecture={}, files={}, sha256={})
    return ReloadRequest(
        dense=model,
        exported=model,
        files=(),
        dataset=None,
        evaluation=Evaluation(),
        threads=1,
        device="cpu",
    )


def test_a_process_whose_end_nobody_saw_says_nothing_about_the_file(tmp_path):
    with pytest.raises(Unavailable, match="nobody saw"):
        reload_in_clean_process(tmp_path, make_request(), Ends(LOST))


def test_a_runner_s_own_server_forks_one_process_after_another_and_ends_with_it():
    """As worker.runner does it: the server is a copy of this process, in its group, from before its work."""
    code = """
import os, sys
from worker.forks.client import fork_server
mine = fork_server("tests.worker.forks.forked_module")
for _ in range(2):
    child = mine.start(["answer"], stdin=0, stdout=1, stderr=2)
    print("", child.wait(60), os.getpgrp(), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=os.environ
    )
    # Whoever waits for the end of its output sees it: the server holds no end of that pipe.
    assert done.returncode == -9
    for line in done.stdout.splitlines():
        said, status, group = line.rsplit(" ", 2)
        assert status == "7"
        assert f'"group": {group}' in said
    assert len(done.stdout.splitlines()) == 2
