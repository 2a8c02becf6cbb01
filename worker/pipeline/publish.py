"""Put what the stages made where the supervisor looks for it: WORK/output, its index last."""

import hashlib
import shutil
from functools import partial
from pathlib import Path

from app.core.states import Stage
from worker.atomic import place_atomically, write_atomically
from worker.pipeline.job import Job
from worker.pipeline.pruning import read_masks
from worker.pipeline.report import list_artifacts
from worker.pipeline.verify import REPORT_NAME
from worker.protocol import OUTPUT_FOLDER, OUTPUT_NAME, OutputMask, RunnerOutput
from worker.pruning.masks import pack


def publish(job: Job) -> None:
    """Write the artifacts, masks and report of a job whose stages stand; again, it changes nothing."""
    output = job.work / OUTPUT_FOLDER
    (output / "artifacts").mkdir(parents=True, exist_ok=True)
    artifacts = list_artifacts(job)
    for artifact in artifacts:
        _copy(job.folder(Stage.EXPORT).path / artifact.name, output / "artifacts" / artifact.name)
    _copy(job.folder(Stage.VERIFY).path / REPORT_NAME, output / REPORT_NAME)
    index = RunnerOutput(artifacts=artifacts, masks=_publish_masks(job, output), report=REPORT_NAME)
    write_atomically(output / OUTPUT_NAME, index.model_dump_json().encode())


def _publish_masks(job: Job, output: Path) -> tuple[OutputMask, ...]:
    (output / "masks").mkdir(exist_ok=True)
    published = []
    for number, (name, mask) in enumerate(read_masks(job.final_folder).items()):
        # Tensor names are the client's; file names are ours.
        file, bits = f"masks/{number}.bits", pack(mask)
        write_atomically(output / file, bits)
        published.append(
            OutputMask(
                name=name,
                shape=tuple(mask.shape),
                pattern=job.spec.recipe.pattern.name,
                sparsity=1 - int(mask.count_nonzero()) / max(mask.numel(), 1),
                sha256=hashlib.sha256(bits).hexdigest(),
                file=file,
            )
        )
    return tuple(published)


def _copy(source: Path, target: Path) -> None:
    place_atomically(target, partial(_copy_to, source))


def _copy_to(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
