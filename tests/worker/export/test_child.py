"""A process that looks at an exported file blames the file only for what is the file's fault."""

import errno
import os

import pytest

from app.core.errors import ExportMismatch, OutOfMemory, StorageFull, Unavailable
from tests.support.started import Started
from worker.export.child import raise_for_exit
from worker.forks.client import spawn_server

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


@pytest.fixture(scope="module")
def endings():
    server = spawn_server("tests.worker.export.ending", os.environ)
    yield server
    server.close()


@pytest.mark.parametrize(("ending", "error", "words"), ENDINGS)
def test_how_it_ended_says_who_is_to_blame(endings, ending, error, words):
    _, said, status = Started(endings, ending).read()
    with pytest.raises(error, match=words):
        raise_for_exit(status, said, failure="it does not load")


def test_a_good_end_raises_nothing():
    raise_for_exit(0, "", failure="it does not load")
