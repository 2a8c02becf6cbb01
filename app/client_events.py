"""Follow a job's events over streams that break, or that end before the job does."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

from app.client_errors import NoService, Unreachable, WaitTimeout
from app.client_retries import pause_s, raise_broken

Json = dict[str, Any]  # Any: JSON as the service sent it

_MEDIA_TYPE = "text/event-stream"


def follow_events(
    http: httpx.Client,
    job_id: str,
    *,
    after: int = 0,
    deadline: float | None = None,
    patience_s: float = 60.0,
) -> Iterator[Json]:
    """Yield each event of a higher number than `after` once, in order, to the job's last one.

    A service that is restarted ends its streams, and is away for the grace of its requests: only its 204 says
    that the job has ended. Raises WaitTimeout when `time.monotonic()` has passed `deadline`, and Unreachable
    when the service has not answered for `patience_s`.
    """
    failing_since: float | None = None
    empty = 0  # answers in a row that brought no event
    while True:
        empty += 1
        try:
            headers = {"Accept": _MEDIA_TYPE, "Last-Event-ID": str(after)}
            with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
                raise_broken(response)
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                if not response.headers.get("Content-Type", "").startswith(_MEDIA_TYPE):
                    raise NoService(response.url)
                failing_since = None
                # Heartbeats come even when events do not, so that the time is asked again and again.
                for line in response.iter_lines():
                    _check_time(job_id, deadline)
                    if line.startswith("data: "):
                        event = json.loads(line.removeprefix("data: "))
                        after, empty = event["seq"], 0
                        yield event
        except httpx.TransportError as error:
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            if now - failing_since > patience_s:
                raise Unreachable(f"{http.base_url} does not answer: {error}") from error
        _check_time(job_id, deadline)
        if empty:
            time.sleep(pause_s(empty))


def _check_time(job_id: str, deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise WaitTimeout(f"{job_id} has not ended yet")
