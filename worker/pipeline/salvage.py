"""Keep the last good checkpoint of a training that diverged, as an artifact of the job that failed."""

from app.core.errors import DivergedTraining
from app.core.report import ReportArtifact
from worker.atomic import write_atomically
from worker.measure.size import measure_file
from worker.pipeline.folder import write_tensors
from worker.pipeline.job import Job
from worker.protocol import KEPT_NAME, OUTPUT_FOLDER, KeptOutput
from worker.training.checkpoint import Tree

LAST_GOOD_FILE = "last-good.safetensors"


def keep_last_good(job: Job, checkpoint: Tree | None, error: DivergedTraining) -> DivergedTraining:
    """Write the weights of the last checkpoint, as far as they were pruned, under the upload's tensor names.

    Returns the error to raise, which names the artifact; the same error where there is no checkpoint yet.
    """
    if checkpoint is None:
        return error
    state = checkpoint["module"]
    artifacts = job.work / OUTPUT_FOLDER / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    path = artifacts / LAST_GOOD_FILE
    write_tensors(path, {name: state[name] for name in job.read_dense().tensor_names})
    size = measure_file(path)
    kept = ReportArtifact(
        name=LAST_GOOD_FILE,
        kind="checkpoint",
        media_type="application/octet-stream",
        sha256=size.sha256,
        size_bytes=size.size_bytes,
        # Nobody has tried: the job ended before its exports were verified.
        loads_in_clean_process=False,
    )
    index = KeptOutput(artifacts=(kept,))
    write_atomically(job.work / OUTPUT_FOLDER / KEPT_NAME, index.model_dump_json().encode())
    return DivergedTraining(f"{error.detail}; its weights are the artifact {LAST_GOOD_FILE}")
