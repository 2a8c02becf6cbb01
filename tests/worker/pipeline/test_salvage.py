"""What is kept of a training that did not come to its end."""

import zlib

import pytest

from app.core.states import Stage
from tests.worker.pipeline.conftest import Run
from worker.measure.size import digest_file
from worker.pipeline.job import STATE_NAME, Job
from worker.pipeline.salvage import BEST_SO_FAR_FILE, weights_salvaged
from worker.protocol import KeptOutput
from worker.stopping import CANCELLED_NAME, Stopped
from worker.training.checkpoint import Checkpoints


@pytest.fixture
def job(finished, tmp_path) -> Job:
    """A job whose results go to a folder of their own."""
    return Job(tmp_path, finished.given)


def test_the_best_so_far_is_there_before_anybody_could_have_compressed_it(job, finished, monkeypatch):
    # A cancelled job has seconds to say what it has; zlib takes half a minute for a gigabyte.
    monkeypatch.setattr(zlib, "compressobj", _refuse)
    cancel(job, make_checkpoint(finished))
    (kept,) = KeptOutput.model_validate_json((job.work / "output" / "kept.json").read_bytes()).artifacts
    path = job.work / "output" / "artifacts" / BEST_SO_FAR_FILE
    assert (kept.name, kept.size_bytes, kept.sha256) == (
        BEST_SO_FAR_FILE,
        path.stat().st_size,
        digest_file(path),
    )


def test_before_the_first_round_nothing_is_kept(job, finished):
    cancel(job, {**make_checkpoint(finished), "history": {"noted": []}})
    assert not (job.work / "output").exists()


def cancel(job: Job, checkpoint: dict) -> None:
    """Cancel a training that has left this checkpoint."""
    checkpoints = Checkpoints(job.work / "checkpoints", {}, interval_s=0.0)
    checkpoints.write(checkpoint)
    (job.work / CANCELLED_NAME).touch()
    with pytest.raises(Stopped), weights_salvaged(job, checkpoints):
        raise Stopped


def make_checkpoint(finished: Run) -> dict:
    state = Job(finished.work, finished.given).folder(Stage.FINETUNE).read_tensors(STATE_NAME)
    return {"module": state, "history": {"noted": [1]}, "judge": {}}


def _refuse(level: int) -> None:
    raise AssertionError("compressed")
