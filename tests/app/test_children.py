"""Children are started again, also when the machine cannot start any for a while."""

import os
import sys

from app.children import Child
from tests.support.service import wait_for


def restarted(child: Child) -> int | None:
    """Look after the child once; returns the id of the process that runs."""
    child.restart_if_dead()
    assert child.process is not None
    return child.process.pid if child.process.poll() is None else None


def test_a_child_that_cannot_be_started_for_a_while_is_tried_again_and_its_death_told_once(tmp_path):
    told = []
    child = Child("one", [sys.executable, "-c", ""], os.environ, tmp_path / "log", on_death=told.append)
    child.start()
    first = child.process.pid
    child.command = [str(tmp_path / "missing")]
    wait_for(lambda: restarted(child) is None and child.restarts > 1, "starts that failed")
    child.command = [sys.executable, "-c", "import time; time.sleep(600)"]
    wait_for(lambda: restarted(child), "the child to be started")
    child.stop(grace_s=5.0)
    assert told == [first]
