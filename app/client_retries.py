"""Send requests until there is an answer that is not transient; everything sent this way may be repeated."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from app.client_errors import ApiError, Unreachable

Json = dict[str, Any]  # Any: JSON as the service sent it

ATTEMPTS = 5
# The service reads and checks an upload of gigabytes before it answers.
LONGEST_ANSWER_S = 3600.0
_FIRST_PAUSE_S = 0.2
_DOUBLINGS = 4
_TRANSIENT = frozenset({429, 502, 503, 504})


def send_until_answered(
    send: Callable[[], httpx.Response], url: str, *, in_flight_s: float = LONGEST_ANSWER_S
) -> httpx.Response:
    """Return the first answer that is not transient; raises ApiError or Unreachable.

    While the service says that it is still at an earlier sending of the request, that is waited for.
    """
    failures, deadline = 0, math.inf
    while True:
        try:
            response = send()
        except httpx.TransportError as error:
            failures += 1
            if failures == ATTEMPTS:
                raise Unreachable(f"{url} does not answer: {error}") from error
            time.sleep(pause_s(failures))
            continue
        if _is_in_flight(response):
            deadline = min(deadline, time.monotonic() + in_flight_s)
            if time.monotonic() > deadline:
                raise Unreachable(str(_read_problem(response).get("detail")))
        else:
            failures += 1
            if response.status_code not in _TRANSIENT or failures == ATTEMPTS:
                raise_refusal(response)
                return response
        time.sleep(_retry_after_s(response, pause_s(max(failures, 1))))


def _is_in_flight(response: httpx.Response) -> bool:
    return response.status_code == httpx.codes.CONFLICT and b'"idempotency_in_flight"' in response.content


def _retry_after_s(response: httpx.Response, default_s: float) -> float:
    """Return the seconds to wait that the answer names, or until its date: 0 to 10."""
    value = response.headers.get("Retry-After", "")
    try:
        if value.isdecimal():
            asked_s = float(value)
        else:
            asked_s = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return default_s
    return min(max(asked_s, 0.0), 10.0)


def raise_refusal(response: httpx.Response) -> None:
    """Raise ApiError with what the service said, or Unreachable; nothing for a success."""
    if response.is_success:
        return
    if response.has_redirect_location:
        # What comes after the question mark may be a secret.
        target = response.headers["Location"].partition("?")[0][:200]
        raise Unreachable(f"{response.url.host} redirects to {target}: is that the address of the service?")
    problem = _read_problem(response)
    if response.status_code in _TRANSIENT - {httpx.codes.TOO_MANY_REQUESTS}:
        raise Unreachable(str(problem.get("detail", problem.get("title"))))
    raise ApiError(response.status_code, problem)


def raise_broken(response: httpx.Response) -> None:
    """Raise like `raise_refusal`, but for what may pass TransportError, as when a connection breaks."""
    if response.status_code in _TRANSIENT:
        problem = _read_problem(response)
        raise httpx.RemoteProtocolError(
            f"{response.status_code} {problem.get('detail', problem.get('title'))}"
        )
    raise_refusal(response)


def _read_problem(response: httpx.Response) -> Json:
    response.read()
    try:
        problem = response.json()
    except ValueError:
        problem = {"title": response.text[:200]}
    return problem if isinstance(problem, dict) else {"title": str(problem)[:200]}


def pause_s(attempt: int) -> float:
    """Return how long to wait after so many failures."""
    return float(_FIRST_PAUSE_S * 2.0 ** min(attempt - 1, _DOUBLINGS))
