"""The API process is light: it answers without what only a worker needs; and tidy."""

import os
import subprocess
import sys

from starlette.testclient import TestClient

from app.main import create_app
from tests.app.conftest import make_settings

HEAVY = ("torch", "numpy", "worker", "safetensors", "transformers", "tokenizers", "pyarrow", "onnx", "scipy")


def test_the_service_loads_nothing_that_only_a_worker_needs():
    code = f"import sys, app.main; sys.exit(' '.join(m for m in {HEAVY!r} if m in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_loads_nothing_that_only_a_worker_needs():
    code = f"import sys, app.cli; sys.exit(' '.join(m for m in {HEAVY!r} if m in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_api_deletes_what_broke_off_on_its_machine_when_it_starts(tmp_path, s3):
    settings = make_settings(tmp_path, f"sqlite:///{tmp_path / 'secateur.db'}", **s3.settings())
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    old, young = incoming / "old", incoming / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    with TestClient(create_app(settings)):
        assert not old.exists()
        assert young.exists()
