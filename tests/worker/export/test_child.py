"""A process that looks at an exported file blames the file only for what is the file's fault."""

import errno
import subprocess
import sys

import pytest

from app.core.errors import ExportMismatch, OutOfMemory, StorageFull, Unavailable
from worker.export.child import raise_for_exit

ENDINGS = [
    ("raise MemoryError('no room for it')", OutOfMemory, "no memory left.*no room for it"),
    (f"raise OSError({errno.ENOMEM}, 'no room to map')", OutOfMemory, "no room to map"),
    (f"raise OSError({errno.ENOSPC}, 'full')", StorageFull, "disk is full"),
    (f"raise OSError({errno.EDQUOT}, 'no more for you')", StorageFull, "disk is full"),
    ("import os; os.kill(os.getpid(), 9)", Unavailable, "ended by SIGKILL"),
    ("import os; os.kill(os.getpid(), 15)", Unavailable, "ended by SIGTERM"),
    ("import os; os.kill(os.getpid(), 11)", ExportMismatch, "does not load: .*crashed with SIGSEGV"),
    ("import os; os.kill(os.getpid(), 4)", ExportMismatch, "does not load: .*crashed with SIGILL"),
    ("import os; os.kill(os.getpid(), 8)", ExportMismatch, "does not load: .*crashed with SIGFPE"),
    (
        "import os, sys; sys.stderr.write('said last'); sys.stderr.flush(); os.abort()",
        ExportMismatch,
        "does not load: .*crashed with SIGABRT: said last",
    ),
    (
        "import os, sys; sys.stderr.write('what():  std::bad_alloc'); sys.stderr.flush(); os.abort()",
        OutOfMemory,
        "no memory left.*bad_alloc",
    ),
    # A mapped file whose disk fails, or is full, ends a process so: neither is the file's fault.
    ("import os; os.kill(os.getpid(), 7)", Unavailable, "ended by SIGBUS"),
    ("raise FileNotFoundError(2, 'no such file')", ExportMismatch, "does not load: FileNotFoundError"),
    ("raise RuntimeError('first\\nlast of many lines')", ExportMismatch, "does not load: last of many"),
]


@pytest.mark.parametrize(("ending", "error", "words"), ENDINGS)
def test_how_it_ended_says_who_is_to_blame(ending, error, words):
    script = f"from worker.export.child import exit_by_what_lacks\nwith exit_by_what_lacks():\n    {ending}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    with pytest.raises(error, match=words):
        raise_for_exit(done.returncode, done.stderr, failure="it does not load")


def test_a_good_end_raises_nothing():
    raise_for_exit(0, "", failure="it does not load")
