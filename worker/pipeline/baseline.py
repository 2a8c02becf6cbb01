"""Stage baseline: what the dense model answers to the test split, sample by sample."""

from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.predictions import predict_test_split
from worker.pipeline.progress import ProgressReporter


def run_baseline(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Predict the test split with the uploaded weights."""
    return predict_test_split(job, folder, job.read_dense().network.module)
