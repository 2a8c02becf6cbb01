"""The health check of containers: an exit code, and a sentence when something is wrong."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.core.pulse import STALE_AFTER_S, beat
from tests.app.conftest import make_settings
from tests.support.live import ApiProcess


def check(name: str, folder: Path, **environment: str) -> tuple[int, str]:
    env = dict(os.environ) | {"SECATEUR_DATA_DIR": str(folder)} | environment
    command = [sys.executable, "-m", "app.health", name]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("name", ["relay", "worker"])
def test_a_pulse_is_felt_until_it_is_old(name, tmp_path):
    assert check(name, tmp_path) == (1, f"the {name} has not begun to work")
    beat(tmp_path / "pulse", name)
    assert check(name, tmp_path) == (0, "ok")
    (file,) = (tmp_path / "pulse").iterdir()
    old = time.time() - STALE_AFTER_S - 5
    os.utime(file, (old, old))
    code, sentence = check(name, tmp_path)
    assert code == 1
    assert "has shown no life for" in sentence


def test_an_api_is_asked_whether_it_is_ready(tmp_path):
    settings = make_settings(tmp_path, f"sqlite:///{tmp_path / 'secateur.db'}")
    with ApiProcess(settings) as api:
        port = str(api.http.base_url.port)
        assert check("api", tmp_path, SECATEUR_PORT=port) == (0, "ok")
        (tmp_path / "store" / "incoming").rmdir()
        code, sentence = check("api", tmp_path, SECATEUR_PORT=port)
        assert (code, "store_not_writable" in sentence) == (1, True)
    assert check("api", tmp_path, SECATEUR_PORT=port)[0] == 1


def test_an_unknown_name_is_a_mistake_of_who_asks(tmp_path):
    assert check("broker", tmp_path)[0] == 2


def test_a_folder_that_cannot_be_written_does_not_stop_who_beats(tmp_path):
    (tmp_path / "file").touch()
    beat(tmp_path / "file", "relay")
    assert check("relay", tmp_path, SECATEUR_PULSE_DIR=str(tmp_path / "file"))[0] == 1
