"""Each line that a worker logs about a job says which job and which attempt, from whatever thread."""

import logging

import pytest

from app.core.logs import _fields
from tests.support import digits
from tests.worker.conftest import add_model
from worker.supervisor import run_waiting_jobs

# It leaves a checkpoint, and a store that cannot take it.
RUNNER = """
import pathlib, sys
blobs = pathlib.Path({blobs!r})
blobs.rename(blobs.with_name("moved"))
blobs.write_text("")
stage = pathlib.Path(sys.argv[1]) / "stages" / "load"
stage.mkdir(parents=True)
(stage / "manifest.json").write_text("a stage")
print('{{"type": "stage.finished", "stage": "load"}}', flush=True)
sys.exit(9)
"""


class Lines(logging.Handler):
    """Keeps each message with the fields of the work at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, dict]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.getMessage(), _fields.get()))


@pytest.fixture
def lines():
    handler = Lines()
    logger = logging.getLogger("worker")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.kept
    logger.setLevel(before)
    logger.removeHandler(handler)


def test_every_line_of_an_attempt_names_job_epoch_and_attempt(context, submit, write_runner, lines):
    write_runner(RUNNER.format(blobs=str(context.store.bytes.root / "blobs")))
    job_id = submit(add_model(context, digits.model_bytes()), resources={"max_attempts": 1})
    run_waiting_jobs(context)
    assert {message for message, _ in lines} == {
        "job claimed",
        "checkpoint not kept",
        "runner died",
        "job left",
    }
    assert all(fields == {"job_id": job_id, "epoch": 1, "attempt": 1} for _, fields in lines)
