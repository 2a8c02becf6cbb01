"""Stage export: the files that the client will download."""

import json
import shutil
from typing import Any

import torch
from pydantic import JsonValue

from app.core.huggingface import CONFIG, CUT_FIELD, name_of
from worker.export.files import (
    ARCHITECTURE_FILE,
    HUGGINGFACE,
    MASKS_FILE,
    MODEL_FILE,
    PROGRAM_FILE,
    list_files,
    list_kept_roles,
)
from worker.export.program import write_program
from worker.formats.cut import CUT, describe_cut, is_cut, read_counts
from worker.measure.size import measure_file
from worker.models.inputs import draw_inputs
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import STATE_NAME, Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.pruning import read_masks
from worker.pruning.removal.configuration import Inexpressible, count_blocks, express

_WHY_FIELD = f"{CUT_FIELD}_because"


def run_export(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Write the model under the upload's tensor names, what belongs to it, and its masks; measure them."""
    state = job.final_folder.read_tensors(STATE_NAME)
    folder.write_tensors(MODEL_FILE, job.select_exported(state))
    read_masks(job.final_folder).save(folder.path / MASKS_FILE)
    _write_architecture(job, folder)
    _write_companions(job, folder)
    if "pt2" in job.spec.outputs:
        network = job.read_final().network
        write_program(
            network.module.cpu(), draw_inputs(network.inputs, torch.device("cpu")), folder.path / PROGRAM_FILE
        )
    files = dict.fromkeys(
        (*list_files(job.exported_model), *list_files(job.exported_model, job.spec.outputs))
    )
    sizes = {file.name: measure_file(folder.path / file.name) for file in files}
    described: Data = {
        name: {
            "size_bytes": size.size_bytes,
            "compressed_bytes": size.compressed_bytes,
            "sha256": size.sha256,
        }
        for name, size in sizes.items()
    }
    warnings: list[JsonValue] = [*_warn(folder)]
    return described | {"warnings": warnings} if warnings else described


def _write_architecture(job: Job, folder: StageFolder) -> None:
    """Write, as data, what a cut model is made of: what its upload's manifest has to say."""
    model = job.exported_model
    if is_cut(model.architecture) and model.format != HUGGINGFACE:
        folder.write_json(ARCHITECTURE_FILE, model.architecture)


def _write_companions(job: Job, folder: StageFolder) -> None:
    model = job.given.model
    for role in list_kept_roles(model):
        shutil.copyfile(model.files[role], folder.path / name_of(role))
    if CONFIG not in model.files:
        return
    config = json.loads(model.files[CONFIG].read_bytes())
    # What is computed with is what is written; an older name of the field would contradict it.
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    if job.removal is not None:
        config.pop(CUT_FIELD, None)
        config.pop(_WHY_FIELD, None)
    if is_cut(job.exported_model.architecture):
        config |= _describe_shape(job)
    (folder.path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _describe_shape(job: Job) -> dict[str, Any]:  # Any: values of JSON
    """Return the fields of a config that make the cut model, or the one that only says that it is cut."""
    module = job.read_final().network.module
    fields = express(module)
    if not isinstance(fields, Inexpressible):
        return fields
    # How many blocks there are can be said in any case.
    cut = describe_cut(read_counts(job.exported_model.architecture[CUT]))
    return {**count_blocks(module), CUT_FIELD: cut, _WHY_FIELD: fields.reason}


def _warn(folder: StageFolder) -> list[str]:
    """Say why from_pretrained will not load the folder, where its config cannot express the cut."""
    if not (folder.path / CONFIG).is_file():
        return []
    reason = json.loads((folder.path / CONFIG).read_bytes()).get(_WHY_FIELD)
    if reason is None:
        return []
    return [f"from_pretrained of transformers does not load the cut model, only the service does: {reason}"]
