"""Run `secateur serve` beside a benchmark, and end it with the benchmark."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_READY = re.compile(r"ready on (http://\S+)")


@contextmanager
def serving(data_dir: Path, **settings: object) -> Iterator[str]:
    """Serve in embedded mode out of `data_dir`; yields the URL. Raises RuntimeError with what serve said."""
    env = dict(os.environ) | {f"SECATEUR_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "app.cli", "serve", "--data-dir", str(data_dir), "--port", "0"]
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # A benchmark that is ended must not leave its service behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    complaints: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    # Nobody else reads stderr: a full pipe would stop the service.
    reader = threading.Thread(target=complaints.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        match = _READY.search(process.stdout.readline())
        if match is None:
            process.wait(30)
            reader.join(5)
            raise RuntimeError("".join(complaints))
        yield match[1]
    finally:
        process.terminate()
        process.wait(60)
