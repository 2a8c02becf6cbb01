"""The end of a job is written in a short transaction: SQLite has one writer, and others beat meanwhile."""

import json
import os
import sqlite3
import zlib

import pytest

from app.core import jobs
from app.core.spec import JobSpec
from app.core.tables import Job, JobMask
from tests.chaos import light_output
from tests.support import digits
from tests.worker.conftest import add_model
from worker.protocol import OUTPUT_FOLDER, OUTPUT_NAME, ModelInput, OutputMask, RunnerInput, RunnerOutput
from worker.supervision.heartbeat import Heartbeat
from worker.supervision.verdict import Verdict


@pytest.fixture
def finished(context, submit, tmp_path):
    """A claimed job, whose runner has left a result with one mask that is a pipe."""
    job_id = submit(add_model(context, digits.model_bytes()))
    with context.sessions.begin() as session:
        lease = jobs.claim(session, job_id, "w", lease_s=60.0)
        spec = session.get_one(Job, job_id).resolved_spec
    work = tmp_path / "work"
    given = RunnerInput(
        job_id=job_id,
        spec_sha256="0" * 64,
        spec=JobSpec.model_validate_json(json.dumps(spec)),
        model=ModelInput(format="safetensors", architecture={}, files={}, sha256={"weights": "0" * 64}),
        dataset=None,
        threads=1,
        device="cpu",
    )
    light_output.write_job(work, given, b"weights")
    output = work / OUTPUT_FOLDER
    os.mkfifo(output / "mask")
    mask = OutputMask(
        name="w", shape=(8,), pattern="unstructured", sparsity=0.5, sha256="0" * 64, file="mask"
    )
    index = RunnerOutput.model_validate_json((output / OUTPUT_NAME).read_bytes())
    (output / OUTPUT_NAME).write_text(index.model_copy(update={"masks": (mask,)}).model_dump_json())
    return lease, work


def test_masks_are_read_and_compressed_while_others_can_write(context, finished, in_background):
    lease, work = finished
    verdict = Verdict(context, lease, Heartbeat(context.sessions, lease, lease_s=60.0, beat_s=60.0))
    thread = in_background(verdict.succeed, work)
    with (work / OUTPUT_FOLDER / "mask").open("wb") as mask:  # opens when the other end is being read
        other = sqlite3.connect(context.settings.data_dir / "secateur.db", timeout=0, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")  # fails where the writer is taken
            other.execute("ROLLBACK")
        finally:
            other.close()
            mask.write(b"\x0f")
    thread.join()
    with context.sessions() as session:
        assert session.get_one(Job, lease.job_id).status == "succeeded"
        assert zlib.decompress(session.get_one(JobMask, (lease.job_id, 0)).bits_zlib) == b"\x0f"
