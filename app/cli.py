"""The `secateur` command: commands that speak to a service over HTTP, beside those that run one."""

import json
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from app import maintenance, processes
from app.client import Client
from app.client_errors import ApiError, DownloadRefused, InvalidApiKey, Unreachable, WaitTimeout
from app.console import show_job, show_refusal, show_report
from app.progress_bar import job_progress
from app.spec_file import InvalidSpecFile, read_spec_file


class Exit(IntEnum):
    """The exit codes of the contract."""

    OK = 0
    GATE_FAILED = 1
    BAD_SPEC = 2
    JOB_FAILED = 3
    CANCELLED = 4
    WAIT_TIMEOUT = 5
    NOT_AUTHORISED = 6
    UNREACHABLE = 7
    UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h
    INTERRUPTED = 130


_Json = dict[str, Any]  # Any: JSON as the service sent it
Url = Annotated[str, typer.Option("--url", envvar="SECATEUR_URL", help="Where the service is.")]
ApiKey = Annotated[str | None, typer.Option("--api-key", envvar="SECATEUR_API_KEY", help="Its key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait; the job goes on.")]
Key = Annotated[
    str | None, typer.Option("--idempotency-key", help="The same key gives the same job again.", max=200)
]
JobId = Annotated[str, typer.Argument(help="The job's id.")]
Spec = Annotated[Path, typer.Argument(help="A spec in YAML or JSON, which may name local files.")]
FromStart = Annotated[bool, typer.Option("--from-start", help="Take up no checkpoint.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the results.")]
_DEFAULT_URL = "http://127.0.0.1:8000"
_CHECK_WAIT_S = 60.0

app = typer.Typer(name="secateur", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(processes.commands)
app.add_typer(maintenance.commands)
_err = Console(stderr=True)


@app.command()
def submit(
    spec: Spec, url: Url = _DEFAULT_URL, api_key: ApiKey = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Upload what the spec names and queue the job; prints its id."""
    with _client(url, api_key) as client:
        job, _ = _submit(client, spec, key)
    typer.echo(json.dumps(job) if as_json else job["id"])


@app.command()
def run(
    spec: Spec,
    url: Url = _DEFAULT_URL,
    api_key: ApiKey = None,
    key: Key = None,
    timeout: Timeout = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Upload, queue, follow, download, check: everything from a spec to a pruned model."""
    with _client(url, api_key) as client:
        job, left_s = _submit(client, spec, key, timeout)
        job = _follow(client, job["id"], left_s)
        if job["status"] == "succeeded":
            _download(client, job, output)
        _conclude(client, job, as_json=as_json)


@app.command()
def wait(
    job_id: JobId,
    url: Url = _DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Follow a job to its end; the exit code says how it ended."""
    with _client(url, api_key) as client:
        _conclude(client, _follow(client, job_id, timeout), as_json=as_json)


@app.command()
def report(job_id: JobId, url: Url = _DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Print the report of a job that has succeeded."""
    with _client(url, api_key) as client:
        found = client.report(job_id)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        show_report(Console(), found)


@app.command()
def download(job_id: JobId, url: Url = _DEFAULT_URL, api_key: ApiKey = None, output: Output = None) -> None:
    """Download a job's artifacts and, when it has succeeded, its report; check every digest."""
    with _client(url, api_key) as client:
        typer.echo(str(_download(client, client.job(job_id), output)))


@app.command()
def cancel(job_id: JobId, url: Url = _DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Ask for a job to be cancelled."""
    with _client(url, api_key) as client:
        _tell(client.cancel(job_id), as_json=as_json)


@app.command()
def pause(job_id: JobId, url: Url = _DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Ask for a job to be paused; it keeps a checkpoint and frees its device."""
    with _client(url, api_key) as client:
        _tell(client.pause(job_id), as_json=as_json)


@app.command()
def resume(job_id: JobId, url: Url = _DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let a paused job go on from its checkpoint."""
    with _client(url, api_key) as client:
        _tell(client.resume(job_id), as_json=as_json)


@app.command()
def retry(
    job_id: JobId,
    from_start: FromStart = False,
    url: Url = _DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Queue a job again that failed or was cancelled."""
    with _client(url, api_key) as client:
        _tell(client.retry(job_id, start="start" if from_start else "checkpoint"), as_json=as_json)


@app.command()
def catalog(url: Url = _DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Print everything that a spec can name, as JSON."""
    with _client(url, api_key) as client:
        typer.echo(json.dumps(client.catalog(), indent=1))


def main() -> None:
    """Run the command line; what nobody foresaw is no exit code of a job."""
    try:
        app()
    except Exception as error:
        traceback.print_exception(error)
        name = type(error).__name__
        raise SystemExit(_give_up(f"unforeseen {name}: {error}", Exit.UNFORESEEN).exit_code) from error


@contextmanager
def _client(url: str, api_key: str | None) -> Iterator[Client]:
    """Give a client, and turn what goes wrong into a sentence and an exit code."""
    try:
        with Client(url, api_key) as client:
            yield client
    except ApiError as error:
        show_refusal(_err, error)
        raise typer.Exit(_refusal_code(error.status)) from error
    except (Unreachable, httpx.HTTPError, DownloadRefused) as error:
        raise _give_up(str(error), Exit.UNREACHABLE) from error
    except WaitTimeout as error:
        raise _give_up(f"{error}; it goes on", Exit.WAIT_TIMEOUT) from error
    except (InvalidSpecFile, InvalidApiKey, httpx.InvalidURL, OSError) as error:
        raise _give_up(str(error), Exit.BAD_SPEC) from error
    except KeyboardInterrupt as error:
        raise _give_up("interrupted; a job that was queued goes on", Exit.INTERRUPTED) from error


def _refusal_code(status: int) -> Exit:
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return Exit.NOT_AUTHORISED
    cannot_now = status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.TOO_MANY_REQUESTS
    return Exit.UNREACHABLE if cannot_now else Exit.BAD_SPEC


def _tell(job: _Json, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(job))
    else:
        show_job(Console(), job)


def _give_up(sentence: str, code: Exit) -> typer.Exit:
    _say(sentence)
    return typer.Exit(code)


def _say(sentence: str) -> None:
    _err.print(f"secateur: {sentence}", markup=False, highlight=False, soft_wrap=True)


def _submit(
    client: Client, path: Path, key: str | None, timeout_s: float | None = None
) -> tuple[_Json, float | None]:
    """Upload and queue; returns the job, and what the check of its model left of the time to wait."""
    key = key or uuid.uuid4().hex
    found = read_spec_file(path)
    spec = dict(found.spec)
    if found.dataset is not None:
        splits, manifest = found.dataset.splits, found.dataset.manifest
        dataset = client.upload_dataset(splits, manifest, idempotency_key=f"{key}-dataset")
        spec["dataset_id"] = dataset["id"]
    if found.model is not None:
        uploaded = client.upload_model(found.model.path, found.model.manifest, idempotency_key=f"{key}-model")
        spec["model_id"] = uploaded["id"]
    started = time.monotonic()
    if found.model is not None:
        _wait_for_check(client, spec["model_id"], timeout_s)
    job = client.create_job(spec, idempotency_key=key)
    waited_s = time.monotonic() - started
    return job, None if timeout_s is None else max(0.0, timeout_s - waited_s)


def _wait_for_check(client: Client, model_id: str, timeout_s: float | None) -> None:
    """Wait a while for the model's deep check, so that a model that is refused is known at once."""
    limit_s = _CHECK_WAIT_S if timeout_s is None else min(_CHECK_WAIT_S, timeout_s)
    try:
        model = client.wait_for_model(model_id, timeout_s=limit_s)
    except WaitTimeout as error:
        # All workers may be busy for hours; the service takes jobs for a model that it has not checked.
        _say(f"{error}; the job is queued all the same")
        return
    if model["status"] == "rejected":
        raise ApiError(model["rejection"]["status"], model["rejection"])


def _follow(client: Client, job_id: str, timeout_s: float | None) -> _Json:
    _err.print(f"job {job_id}", markup=False, highlight=False)
    with job_progress(_err) as progress:
        return client.wait(job_id, timeout_s=timeout_s, on_event=progress.show)


def _download(client: Client, job: _Json, output: Path | None) -> Path:
    """Download everything that the job left into a folder, which is returned."""
    job_id = job["id"]
    folder = output or Path("secateur-output") / job_id
    folder.mkdir(parents=True, exist_ok=True)
    started, size_bytes = time.monotonic(), 0
    for artifact in client.artifacts(job_id):
        client.download(job_id, artifact, folder)
        size_bytes += artifact["size_bytes"]
    if job["status"] == "succeeded":
        (folder / "report.json").write_text(json.dumps(client.report(job_id), indent=1))
    elapsed_s = time.monotonic() - started
    _err.print(f"{size_bytes:,} bytes in {elapsed_s:.1f} s, digests checked: {folder}", highlight=False)
    return folder


def _conclude(client: Client, job: _Json, *, as_json: bool) -> None:
    """Print how the job ended, and exit with the code for it."""
    if as_json:
        typer.echo(json.dumps(job))
    else:
        show_job(Console(), job)
        if job["status"] == "succeeded":
            show_report(Console(), client.report(job["id"]))
    raise typer.Exit(_exit_code(job))


def _exit_code(job: _Json) -> Exit:
    if job["status"] == "succeeded":
        return Exit.GATE_FAILED if job["gates"]["outcome"] == "failed" else Exit.OK
    # What has not ended is never told as done.
    return {"failed": Exit.JOB_FAILED, "cancelled": Exit.CANCELLED}.get(job["status"], Exit.WAIT_TIMEOUT)


if __name__ == "__main__":
    main()
