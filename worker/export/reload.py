"""Open an exported model in a clean process, predict and measure there, and bring the answers back.

So a number in a report is one that anybody can count again on the downloaded file.
"""

import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from app.core.report import LatencyResult
from app.core.spec import Evaluation
from worker.export.child import raise_for_exit
from worker.measure.model import MeasuredModel
from worker.protocol import DatasetInput, ModelInput

REQUEST_NAME = "reload_request.json"
ANSWER_NAME = "measured.json"
RECORDS_NAME = "reloaded.safetensors"
_ROOT = Path(__file__).resolve().parents[2]
# -I hides the environment's Python settings and the current folder; the one path it needs is handed over.
_BOOTSTRAP = (
    "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('worker.export.clean', run_name='__main__', alter_sys=True)"
)


class ReloadRequest(BaseModel):
    """The uploaded and the exported model, of one architecture; every exported file; what to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: ModelInput
    exported: ModelInput
    files: tuple[Path, ...]
    dataset: DatasetInput | None
    evaluation: Evaluation
    threads: int
    device: str


class Measured(BaseModel):
    """What the clean process counted on the two files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dense: MeasuredModel
    exported: MeasuredModel
    latency: tuple[LatencyResult, ...]
    warnings: tuple[str, ...]


def reload_in_clean_process(folder: Path, request: ReloadRequest) -> Measured:
    """Run the request, with its files in `folder`; raises ExportMismatch when the file does not load.

    Raises Unavailable, OutOfMemory or StorageFull when this machine could not find out.
    """
    (folder / REQUEST_NAME).write_text(request.model_dump_json())
    command = [sys.executable, "-I", "-c", _BOOTSTRAP, str(_ROOT), str(folder)]
    with subprocess.Popen(
        # The child dies with us: it watches the pipe, of which we hold the other end.
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None  # a pipe was asked for
        said = process.stderr.read()
        status = process.wait()
    sys.stderr.write(said)
    raise_for_exit(status, said, failure="the exported file does not load in a clean process")
    return Measured.model_validate_json((folder / ANSWER_NAME).read_bytes())
