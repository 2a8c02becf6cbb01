"""The clean process: load the exported file as a client would, predict and measure, leave the answers.

It knows the architecture and the files, and nothing of pruning or of the job.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from app.core.huggingface import CONFIG, CUT_FIELD
from worker.datasets.registry import read_splits
from worker.export.child import exit_by_what_lacks
from worker.export.files import HUGGINGFACE
from worker.export.reload import (
    ANSWER_NAME,
    RECORDS_NAME,
    REQUEST_NAME,
    Measured,
    ReloadRequest,
)
from worker.formats.huggingface import make_blueprint
from worker.formats.registry import read_model
from worker.lifeline import watch_stdin
from worker.measure.latency import measure_latency
from worker.measure.model import measure_model
from worker.measure.records import record_split
from worker.models.inputs import draw_inputs
from worker.numerics import make_deterministic
from worker.objectives.registry import find_task


def main(arguments: list[str]) -> int:
    """Answer the request that lies in the folder given; returns 0, or exits by what the machine lacks."""
    watch_stdin()
    with exit_by_what_lacks():
        _answer(Path(arguments[0]))
    return 0


def _answer(folder: Path) -> None:
    request = ReloadRequest.model_validate_json((folder / REQUEST_NAME).read_bytes())
    make_deterministic(threads=request.threads, device=request.device)
    for file in request.files:
        if file.suffix == ".safetensors":
            load_file(file)
    _check_folder(request)
    _record(folder, request)
    measured = _measure(request)
    (folder / ANSWER_NAME).write_text(measured.model_dump_json())


def _check_folder(request: ReloadRequest) -> None:
    """Load a folder with from_pretrained, as its user will, where its config can say what is in it."""
    if request.exported.format == HUGGINGFACE:
        path = request.exported.files[CONFIG]
        config = json.loads(path.read_bytes())
        if CUT_FIELD not in config:
            network = read_model(request.exported).network
            inputs = draw_inputs(network.inputs, torch.device("cpu"))
            make_blueprint(config).check_from_pretrained(path.parent, network.module, inputs)


def _record(folder: Path, request: ReloadRequest) -> None:
    if request.dataset is None:
        return
    device = torch.device(request.device)
    network = read_model(request.exported).network
    module = network.module.to(device)
    only_test = request.dataset.model_copy(update={"files": {"test": request.dataset.files["test"]}})
    test = read_splits(only_test, network)["test"]
    objective = find_task(request.dataset.task).objective
    batch_size = request.evaluation.batch_size
    records = record_split(module, test, objective, batch_size=batch_size, device=device)
    save_file(records, folder / RECORDS_NAME)


def _measure(request: ReloadRequest) -> Measured:
    dense, exported = read_model(request.dense).network, read_model(request.exported).network
    before, after = measure_model(dense), measure_model(exported)
    settings = request.evaluation.latency
    if settings is None:
        return Measured(dense=before, exported=after, latency=(), warnings=())
    if settings.device == "cuda" and not torch.cuda.is_available():
        warning = "latency was not measured: the spec asks for cuda, and this worker has no such device"
        return Measured(dense=before, exported=after, latency=(), warnings=(warning,))
    latency = measure_latency(dense, exported, settings, counted=(before, after))
    return Measured(dense=before, exported=after, latency=(latency,), warnings=())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
