"""Stage verify: the exported file, loaded in a clean process, must be the model that was evaluated."""

import torch
from safetensors.torch import load_file

from app.core.errors import ExportMismatch
from app.core.states import Stage
from worker.export.files import PROGRAM_FILE, describe_export, list_files
from worker.export.program import run_program
from worker.export.reload import (
    RECORDS_NAME,
    Measured,
    ReloadRequest,
    reload_in_clean_process,
)
from worker.models.inputs import Inputs, compute_logits, draw_inputs
from worker.pipeline.folder import Data, StageFolder
from worker.pipeline.job import Job
from worker.pipeline.predictions import read_records
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.pruning import read_masks
from worker.pipeline.report import compose_report
from worker.pruning import MaskSet

REPORT_NAME = "report.json"
_TOLERANCE = 1e-4


def run_verify(job: Job, folder: StageFolder, progress: ProgressReporter) -> Data:
    """Reload, recount, compare, and write the report from what was counted.

    Raises ExportMismatch when the file says anything else than the model in memory did.
    """
    measured = reload_in_clean_process(folder.path, _make_request(job), job.clean)
    _check_predictions(job, folder)
    _check_program(job, folder)
    _check_zeros(measured, read_masks(job.final_folder))
    report = compose_report(job, measured)
    (folder.path / REPORT_NAME).write_text(report.model_dump_json(indent=2))
    return {
        **{metric.name: metric.final for metric in report.summary.metrics},
        "sparsity": report.summary.sparsity.masked,
        "speedup": next((one.speedup for one in report.summary.latency), None),
    }


def _make_request(job: Job) -> ReloadRequest:
    folder = job.folder(Stage.EXPORT).path
    return ReloadRequest(
        dense=job.given.model,
        exported=describe_export(job.exported_model, folder),
        files=tuple(folder / file.name for file in list_files(job.exported_model)),
        dataset=job.given.dataset,
        evaluation=job.evaluation,
        threads=job.given.threads,
        device=job.given.device,
    )


def _check_predictions(job: Job, folder: StageFolder) -> None:
    if job.given.dataset is None:
        return
    reloaded = load_file(folder.path / RECORDS_NAME)
    for name, evaluated in read_records(job.folder(Stage.EVALUATE)).items():
        is_close = _is_close(evaluated, reloaded[name])
        if not bool(is_close.all()):
            differing = int((~is_close).sum())
            raise ExportMismatch(
                f"the exported file answers {differing} of {len(evaluated)} test samples otherwise ({name})"
            )


def _check_program(job: Job, folder: StageFolder) -> None:
    """Run the program where there is torch alone: on one sample, and on three, shorter ones of text."""
    if "pt2" not in job.spec.outputs:
        return
    network = job.read_final().network
    module = network.module.cpu().eval()
    drawn = draw_inputs(network.inputs, torch.device("cpu"))
    cases = [_take(drawn, [0]), _take(drawn, [0, 1, 0], shorter_by=1)]
    answers = run_program(job.folder(Stage.EXPORT).path / PROGRAM_FILE, cases, folder.path)
    for case, found in zip(cases, answers, strict=True):
        with torch.no_grad():
            expected = compute_logits(module, case).float()
        if found.shape != expected.shape or not bool(_is_close(expected, found).all()):
            raise ExportMismatch(f"{PROGRAM_FILE} answers {len(found)} samples otherwise than the model does")


def _take(inputs: Inputs, samples: list[int], *, shorter_by: int = 0) -> Inputs:
    if isinstance(inputs, torch.Tensor):
        return inputs[samples]
    return {name: tensor[samples, : tensor.shape[1] - shorter_by] for name, tensor in inputs.items()}


def _is_close(evaluated: torch.Tensor, reloaded: torch.Tensor) -> torch.Tensor:
    """Compare records: a GPU may add up in another order; classes and counts are the same everywhere."""
    if not evaluated.is_floating_point():
        return evaluated == reloaded
    # Of an answer near zero the last digits are noise, so it is held against the size of the others too.
    typical = float(evaluated.abs().mean())
    return torch.isclose(evaluated, reloaded, rtol=_TOLERANCE, atol=_TOLERANCE * typical)


def _check_zeros(measured: Measured, masks: MaskSet) -> None:
    for name, mask in masks.items():
        zeros = mask.numel() - measured.exported.tensors[name].nonzero
        pruned = mask.numel() - int(mask.count_nonzero())
        if zeros < pruned:
            raise ExportMismatch(f"{name} has {zeros} zeros in the exported file, its mask prunes {pruned}")
