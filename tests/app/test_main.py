"""The API process is light: it answers without what only a worker needs."""

import subprocess
import sys

HEAVY = ("torch", "numpy", "worker", "safetensors", "transformers", "tokenizers", "pyarrow", "onnx", "scipy")


def test_the_service_loads_nothing_that_only_a_worker_needs():
    code = f"import sys, app.main; sys.exit(' '.join(m for m in {HEAVY!r} if m in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_loads_nothing_that_only_a_worker_needs():
    code = f"import sys, app.cli; sys.exit(' '.join(m for m in {HEAVY!r} if m in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
