"""A client for the HTTP API: uploads, jobs, events, results, downloads that resume and check their digest."""

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from app.client_errors import (
    DigestMismatch,
    DownloadRefused,
    InvalidApiKey,
    NoService,
    Unreachable,
    WaitTimeout,
)
from app.client_events import follow_events
from app.client_retries import ATTEMPTS, LONGEST_ANSWER_S, pause_s, raise_broken, send_until_answered
from app.core.huggingface import INDEX, SHARD, WEIGHTS, is_taken
from app.redirects import is_this_machine, stream_file

Json = dict[str, Any]  # Any: JSON as the service sent it

_TIMEOUT = httpx.Timeout(30.0, read=90.0)
_UPLOAD_TIMEOUT = httpx.Timeout(LONGEST_ANSWER_S, connect=30.0)
_LONG_POLL_S = 30
_API_KEY = re.compile(r"[\x21-\x7e]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,254}")


class Client:
    """Speaks to one service; requests that are safe to repeat are repeated when the network fails.

    Every method raises ApiError when the service refuses and Unreachable when it cannot be reached.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        if httpx.URL(url).scheme not in ("http", "https") or not httpx.URL(url).host:
            raise httpx.InvalidURL(f"expected a URL such as http://127.0.0.1:8000, found {url!r}")
        # A key out of a file often ends with a newline.
        api_key = (api_key or "").strip()
        if not _API_KEY.fullmatch(api_key):
            raise InvalidApiKey
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # A proxy of the environment is never between us and our own machine.
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=not is_this_machine(url)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def upload_model(self, path: Path, manifest: Json, *, idempotency_key: str | None = None) -> Json:
        """Upload a model: one file, for which `manifest` needs the architecture, or a folder of transformers.

        Name and format have defaults. Of a folder, what does not belong to such a model is left out.
        """
        if not path.is_dir():
            full = {"name": path.stem, "format": "safetensors"} | manifest
            return self._upload("/v1/models", full, {path.name: path}, idempotency_key)
        full = {"name": path.resolve().name, "format": "huggingface"} | manifest
        files = {file.name: file for file in sorted(path.iterdir()) if is_taken(file.name)}
        if WEIGHTS in files:
            # Some folders hold the same weights twice, whole and in shards.
            files = {
                name: file for name, file in files.items() if name != INDEX and not SHARD.fullmatch(name)
            }
        return self._upload("/v1/models", full, files, idempotency_key)

    def upload_dataset(
        self, splits: Mapping[str, Path], manifest: Json, *, idempotency_key: str | None = None
    ) -> Json:
        """Upload one file a split as a dataset."""
        files = {f"{split}{path.suffix}": path for split, path in splits.items()}
        full: Json = {"task": "image-classification", "format": "npz"} | manifest
        full["splits"] = dict(zip(splits, files, strict=True))
        return self._upload("/v1/datasets", full, files, idempotency_key)

    def model(self, model_id: str) -> Json:
        return self._get_json(f"/v1/models/{model_id}")

    def wait_for_model(self, model_id: str, *, timeout_s: float = 300.0) -> Json:
        """Return the model once its deep check is done, ready or rejected; raises WaitTimeout."""
        deadline = time.monotonic() + timeout_s
        while (model := self.model(model_id))["status"] == "validating":
            if time.monotonic() > deadline:
                raise WaitTimeout(f"{model_id} is still validating after {timeout_s:g} s")
            time.sleep(0.2)
        return model

    def create_job(self, spec: Json, *, idempotency_key: str | None = None) -> Json:
        """Queue a job; repeating the call with the same key gives the same job."""
        headers = {"Idempotency-Key": idempotency_key or _new_key()}
        return self._json(lambda: self._http.post("/v1/jobs", json=spec, headers=headers))

    def validate(self, spec: Json) -> Json:
        """Ask whether a spec would be taken, and for its plan."""
        return self._json(lambda: self._http.post("/v1/jobs/validate", json=spec))

    def jobs(self) -> list[Json]:
        """Return every job, newest first."""
        return self._list("/v1/jobs")

    def job(self, job_id: str) -> Json:
        return self._get_json(f"/v1/jobs/{job_id}")

    def cancel(self, job_id: str) -> Json:
        return self._json(lambda: self._http.post(f"/v1/jobs/{job_id}/cancel"))

    def pause(self, job_id: str) -> Json:
        """Ask for a pause, which costs no attempt."""
        return self._json(lambda: self._http.post(f"/v1/jobs/{job_id}/pause"))

    def resume(self, job_id: str) -> Json:
        """Let a paused job go on from its checkpoint."""
        return self._json(lambda: self._http.post(f"/v1/jobs/{job_id}/resume"))

    def retry(self, job_id: str, *, start: str = "checkpoint") -> Json:
        """Queue a failed or cancelled job again, from its `checkpoint` or from the `start`."""
        return self._json(lambda: self._http.post(f"/v1/jobs/{job_id}/retry", json={"from": start}))

    def attempts(self, job_id: str) -> list[Json]:
        """Return the attempts at a job, the newest first."""
        return self._list(f"/v1/jobs/{job_id}/attempts")

    def wait(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        on_event: Callable[[Json], None] | None = None,
    ) -> Json:
        """Return the job once it has ended, giving each event on the way; raises WaitTimeout."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if on_event is not None:
            for event in self.events(job_id, deadline=deadline):
                on_event(event)
        # Somebody may have retried the job since its last event.
        return self._wait_by_polling(job_id, deadline)

    def events(self, job_id: str, *, after: int = 0, deadline: float | None = None) -> Iterator[Json]:
        """Yield each event once, in order, to the job's last one, over streams that break or end before.

        Raises WaitTimeout when `time.monotonic()` has passed `deadline`.
        """
        return follow_events(self._http, job_id, after=after, deadline=deadline)

    def report(self, job_id: str) -> Json:
        return self._get_json(f"/v1/jobs/{job_id}/report")

    def layers(self, job_id: str) -> list[Json]:
        return self._list(f"/v1/jobs/{job_id}/layers")

    def masks(self, job_id: str) -> list[Json]:
        return self._list(f"/v1/jobs/{job_id}/masks")

    def mask(self, job_id: str, name: str) -> bytes:
        """Return a mask's bits: `numpy.packbits(..., bitorder="little")` of the C-order mask, 1 = kept."""
        url = f"/v1/jobs/{job_id}/masks/{name}"
        return send_until_answered(lambda: self._http.get(url), str(self._http.base_url)).content

    def artifacts(self, job_id: str) -> list[Json]:
        return self._list(f"/v1/jobs/{job_id}/artifacts")

    def catalog(self) -> Json:
        return self._get_json("/v1/catalog")

    def download(self, job_id: str, artifact: Json, folder: Path) -> Path:
        """Download one of `artifacts` into a folder; a download that broke off goes on where it stopped.

        Raises DigestMismatch, and DownloadRefused for a name that could leave the folder.
        """
        if not _FILE_NAME.fullmatch(artifact["name"]):
            raise DownloadRefused(f"{artifact['name']!r} is not the name of a file")
        path = folder / str(artifact["name"])
        part = path.with_name(path.name + ".part")
        failures = 0
        while True:
            try:
                self._fetch_rest(f"/v1/jobs/{job_id}/artifacts/{artifact['name']}", artifact, part)
                break
            except httpx.TransportError as error:
                failures += 1
                if failures >= ATTEMPTS:
                    raise Unreachable(f"{artifact['name']} broke off {failures} times: {error}") from error
                time.sleep(pause_s(failures))
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != artifact["sha256"]:
            part.unlink()
            raise DigestMismatch(f"{artifact['name']}: expected {artifact['sha256']}, found {found}")
        part.replace(path)
        return path

    def _fetch_rest(self, url: str, artifact: Json, part: Path) -> None:
        have = part.stat().st_size if part.exists() else 0
        if have >= artifact["size_bytes"] > 0:
            have = 0
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{artifact["sha256"]}"'} if have else {}
        with stream_file(self._http, url, headers) as response:
            raise_broken(response)
            resumed = have > 0 and response.status_code == httpx.codes.PARTIAL_CONTENT
            with part.open("ab" if resumed else "wb") as file:
                # As they come: larger pieces would be lost when the connection breaks in one.
                for chunk in response.iter_bytes():
                    file.write(chunk)

    def _wait_by_polling(self, job_id: str, deadline: float | None) -> Json:
        job = self.job(job_id)
        while not job["is_terminal"]:
            left_s = _LONG_POLL_S if deadline is None else min(_LONG_POLL_S, deadline - time.monotonic())
            if left_s <= 0:
                raise WaitTimeout(f"{job_id} is still {job['status']}")
            job = self._get_json(f"/v1/jobs/{job_id}", headers={"Prefer": f"wait={max(1, int(left_s))}"})
        return job

    def _upload(self, url: str, manifest: Json, files: Mapping[str, Path], key: str | None) -> Json:
        headers = {"Idempotency-Key": key or _new_key()}
        data = {"manifest": json.dumps(manifest)}

        def send() -> httpx.Response:
            with ExitStack() as stack:
                parts = [
                    ("file", (name, stack.enter_context(path.open("rb")))) for name, path in files.items()
                ]
                return self._http.post(url, data=data, files=parts, headers=headers, timeout=_UPLOAD_TIMEOUT)

        return self._json(send)

    def _list(self, url: str) -> list[Json]:
        rows: list[Json] = []
        page = self._get_json(url)
        rows += page["data"]
        while page["has_more"]:
            page = self._get_json(url, params={"cursor": page["next_cursor"]})
            rows += page["data"]
        return rows

    def _get_json(
        self, url: str, *, params: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> Json:
        return self._json(lambda: self._http.get(url, params=params, headers=headers))

    def _json(self, send: Callable[[], httpx.Response]) -> Json:
        response = send_until_answered(send, str(self._http.base_url))
        try:
            found = response.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise NoService(response.url)
        return found


def _new_key() -> str:
    return uuid.uuid4().hex
