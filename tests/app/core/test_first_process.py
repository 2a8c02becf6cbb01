"""Where a program is the first process of a container, nothing else collects those whose parent is gone."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.support.service import wait_for

_PROGRAM = """
import ctypes, subprocess, sys
from app.core.first_process import go_on_in_child

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what the first process of a container is
go_on_in_child()
command = ["sh", "-c", "sleep 300 > /dev/null & echo $!"]
print(subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)
sys.stdin.read()
sys.exit(7)
"""


@pytest.fixture
def first() -> Iterator[subprocess.Popen[str]]:
    """A first process, whose program says the id of one that has no parent left."""
    command = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.fixture
def orphan(first) -> Iterator[psutil.Process]:
    process = psutil.Process(int(first.stdout.readline()))
    yield process
    if process.is_running():
        process.kill()


def test_who_has_no_parent_left_is_collected_when_it_ends(first, orphan):
    assert orphan.ppid() == first.pid
    orphan.kill()
    wait_for(lambda: not psutil.pid_exists(orphan.pid), "it to be collected")
    assert first.poll() is None


def test_it_ends_as_its_program_ends(first, orphan):
    first.stdin.close()
    assert first.wait(60) == 7


def test_a_signal_reaches_the_program_and_how_it_ended_is_told_as_shells_do(first, orphan):
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 128 + signal.SIGTERM
