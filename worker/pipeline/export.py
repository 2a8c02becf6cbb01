"""Stage export: the files that the client will download."""

from worker.export.files import MASKS_FILE, MODEL_FILE
from worker.measure.size import measure_file
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import STATE_NAME, Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.pruning import read_masks


def run_export(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Write the model under the tensor names of the upload, and its masks; measure both files' sizes."""
    state = job.final_folder.read_tensors(STATE_NAME)
    folder.write_tensors(MODEL_FILE, {name: state[name] for name in job.read_dense().tensor_names})
    read_masks(job.final_folder).save(folder.path / MASKS_FILE)
    sizes = {name: measure_file(folder.path / name) for name in (MODEL_FILE, MASKS_FILE)}
    return {
        name: {
            "size_bytes": size.size_bytes,
            "compressed_bytes": size.compressed_bytes,
            "sha256": size.sha256,
        }
        for name, size in sizes.items()
    }
