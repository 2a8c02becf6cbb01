"""Open an exported model in a clean process, predict and measure there, and bring the answers back.

So a number in a report is one that anybody can count again on the downloaded file. A clean process has seen
nothing of the job but the files: it is an interpreter of its own, or forked from one that opened no job.
"""

import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from app.core.config import Device
from app.core.errors import Unavailable
from app.core.report import LatencyResult
from app.core.spec import Evaluation
from worker.export.child import raise_for_exit
from worker.forks.client import LOST, Spawner, Starter
from worker.measure.model import MeasuredModel
from worker.protocol import DatasetInput, ModelInput

REQUEST_NAME = "reload_request.json"
ANSWER_NAME = "measured.json"
RECORDS_NAME = "reloaded.safetensors"
CLEAN_MODULE = "worker.export.clean"
# An interpreter of its own, in the group of the process that asks.
FRESH = Spawner(CLEAN_MODULE, leads=False)


class ReloadRequest(BaseModel):
    """The uploaded and the exported model, of one architecture; every exported file; what to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: ModelInput
    exported: ModelInput
    files: tuple[Path, ...]
    dataset: DatasetInput | None
    evaluation: Evaluation
    threads: int
    device: Device


class Measured(BaseModel):
    """What the clean process counted on the two files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: MeasuredModel
    exported: MeasuredModel
    latency: tuple[LatencyResult, ...]
    warnings: tuple[str, ...]


def reload_in_clean_process(folder: Path, request: ReloadRequest, starter: Starter) -> Measured:
    """Run the request, with its files in `folder`; raises ExportMismatch when the file does not load.

    `starter` starts processes of CLEAN_MODULE. Raises Unavailable, OutOfMemory or StorageFull when this
    machine could not find out.
    """
    (folder / REQUEST_NAME).write_text(request.model_dump_json())
    (stdin, lifeline), (said_by_it, stderr) = os.pipe(), os.pipe()
    # The process dies with us: it watches the pipe, of which we hold the other end.
    with (
        Path(os.devnull).open("wb") as nowhere,
        os.fdopen(lifeline, "wb"),
        os.fdopen(said_by_it, errors="replace") as stream,
    ):
        try:
            process = starter.start(
                [str(folder)],
                imports=request.exported.imports,
                stdin=stdin,
                stdout=nowhere.fileno(),
                stderr=stderr,
            )
        finally:
            os.close(stdin)
            os.close(stderr)
        said = stream.read()
        status = process.wait()
    sys.stderr.write(said)
    if status == LOST:
        raise Unavailable("nobody saw how the process that checks the exported file ended")
    raise_for_exit(status, said, failure="the exported file does not load in a clean process")
    return Measured.model_validate_json((folder / ANSWER_NAME).read_bytes())
