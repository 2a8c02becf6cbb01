"""Holding a work folder alone."""

import subprocess
import sys
import threading
import time

import pytest

from app.core.errors import FolderBusy
from worker.lock import hold_folder


def test_a_second_holder_gives_up_after_its_wait(tmp_path):
    with (
        hold_folder(tmp_path, wait_s=1),
        pytest.raises(FolderBusy, match=r"held the work folder for 0\.3 s"),
        hold_folder(tmp_path, wait_s=0.3),
    ):
        pass


def test_a_second_holder_waits_for_the_first(tmp_path):
    first = hold_folder(tmp_path, wait_s=1)
    first.__enter__()
    threading.Timer(0.3, lambda: first.__exit__(None, None, None)).start()
    started = time.monotonic()
    with hold_folder(tmp_path, wait_s=10):
        assert time.monotonic() - started >= 0.25


def test_a_killed_holder_holds_nothing(tmp_path):
    script = (
        "import sys, time, pathlib; from worker.lock import hold_folder\n"
        "with hold_folder(pathlib.Path(sys.argv[1]), wait_s=1): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with hold_folder(tmp_path, wait_s=5):
        pass
