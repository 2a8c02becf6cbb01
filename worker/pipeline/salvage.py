"""Keep the weights of a training that did not come to its end, as an artifact of the job."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from app.core.errors import DivergedTraining
from app.core.report import ReportArtifact
from worker.atomic import write_atomically
from worker.measure.size import digest_file
from worker.pipeline.folder import write_tensors
from worker.pipeline.job import Job
from worker.protocol import KEPT_NAME, OUTPUT_FOLDER, KeptOutput
from worker.stopping import CANCELLED_NAME, Stopped
from worker.training.checkpoint import Checkpoints, Tree

LAST_GOOD_FILE = "last-good.safetensors"
BEST_SO_FAR_FILE = "best-so-far.safetensors"


@contextmanager
def weights_salvaged(job: Job, checkpoints: Checkpoints) -> Iterator[None]:
    """Make an artifact of the last checkpoint when a training is cancelled or diverges within the block."""
    try:
        yield
    except Stopped:
        if (job.work / CANCELLED_NAME).exists():
            _keep_best_so_far(job, checkpoints.read())
        raise
    except DivergedTraining as error:
        raise _keep_last_good(job, checkpoints.read(), error) from error


def _keep_last_good(job: Job, checkpoint: Tree | None, error: DivergedTraining) -> DivergedTraining:
    """Write the weights of the last checkpoint, as far as they were pruned, under the upload's tensor names.

    Returns the error to raise, which names the artifact; the same error where there is no checkpoint yet.
    """
    if checkpoint is None:
        return error
    _keep(job, LAST_GOOD_FILE, checkpoint["module"])
    return DivergedTraining(f"{error.detail}; its weights are the artifact {LAST_GOOD_FILE}")


def _keep_best_so_far(job: Job, checkpoint: Tree | None) -> None:
    """Write the weights of a job that is cancelled: those that did best on the validation split, or the last.

    Pruned weights are zero in them. Nothing is written before the first round: that is the uploaded model.
    """
    if checkpoint is None or not checkpoint["history"]["noted"]:
        return
    best = checkpoint["judge"].get("best")
    _keep(job, BEST_SO_FAR_FILE, best["state"]["module"] if best else checkpoint["module"])


def _keep(job: Job, name: str, state: Mapping[str, Tensor]) -> None:
    artifacts = job.work / OUTPUT_FOLDER / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    path = artifacts / name
    write_tensors(path, job.select_exported(state))
    kept = ReportArtifact(
        name=name,
        kind="checkpoint",
        media_type="application/octet-stream",
        sha256=digest_file(path),
        size_bytes=path.stat().st_size,
        # Nobody has tried: the job ended before its exports were verified.
        loads_in_clean_process=False,
    )
    index = KeptOutput(artifacts=(kept,))
    write_atomically(job.work / OUTPUT_FOLDER / KEPT_NAME, index.model_dump_json().encode())
