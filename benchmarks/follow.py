"""Send one job through the service as any client would: upload, submit, progress bar, download, table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from app.client import Client
from app.console import show_report
from app.progress_bar import job_progress

Json = dict[str, Any]  # Any: JSON as it goes over HTTP


@dataclass(frozen=True)
class Upload:
    """Files and the manifest that describes them; a model is a file or a folder, a dataset a file a split."""

    files: dict[str, Path]
    manifest: Json


def run_job(
    client: Client, console: Console, spec: Json, *, model: Upload, dataset: Upload, output: Path
) -> Json:
    """Run one job to its end; returns its report. Raises RuntimeError when it does not succeed.

    The artifacts, their digests checked, and the report lie in `output` afterwards.
    """
    ids = {"model_id": upload_model(client, model), "dataset_id": upload_dataset(client, dataset)}
    job = client.create_job(spec | ids)
    console.print(f"POST /v1/jobs → {job['id']}", markup=False, highlight=False)
    with job_progress(console) as progress:
        job = client.wait(job["id"], on_event=progress.show)
    if job["status"] != "succeeded":
        raise RuntimeError(f"the job ended as {job['status']}: {job['error'] and job['error']['detail']}")
    output.mkdir(parents=True, exist_ok=True)
    for artifact in client.artifacts(job["id"]):
        path = client.download(job["id"], artifact, output)
        digest = artifact["sha256"][:16]
        line = f"{path.name}: {artifact['size_bytes']:,} bytes, sha256 {digest}… checked"
        console.print(line, markup=False, highlight=False)
    report = client.report(job["id"])
    (output / "report.json").write_text(json.dumps(report, indent=1))
    console.print()
    show_report(console, report)
    return report


def upload_model(client: Client, model: Upload) -> str:
    """Upload a model and wait for its deep check; returns its id, raises RuntimeError when it is rejected."""
    files = list(model.files.values())
    uploaded = client.upload_model(files[0] if len(files) == 1 else files[0].parent, model.manifest)
    checked = client.wait_for_model(uploaded["id"])
    if checked["status"] != "ready":
        raise RuntimeError(f"the model was rejected: {checked['rejection']['detail']}")
    return str(checked["id"])


def upload_dataset(client: Client, dataset: Upload) -> str:
    """Upload a dataset; returns its id."""
    return str(client.upload_dataset(dataset.files, dataset.manifest)["id"])
