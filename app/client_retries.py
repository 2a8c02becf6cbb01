"""Send requests until there is an answer that is not transient; everything sent this way may be repeated."""

import time
from collections.abc import Callable
from typing import Any

import httpx

from app.client_errors import ApiError, Unreachable

Json = dict[str, Any]  # Any: JSON as the service sent it

ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2
_DOUBLINGS = 4
_TRANSIENT = frozenset({429, 502, 503, 504})


def send_until_answered(send: Callable[[], httpx.Response], url: str) -> httpx.Response:
    """Return the first answer that is not transient; raises ApiError or Unreachable."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            response = send()
        except httpx.TransportError as error:
            if attempt == ATTEMPTS:
                raise Unreachable(f"{url} does not answer: {error}") from error
            time.sleep(pause_s(attempt))
            continue
        if not _is_transient(response) or attempt == ATTEMPTS:
            raise_refusal(response)
            return response
        time.sleep(min(float(response.headers.get("Retry-After", pause_s(attempt))), 10.0))
    raise AssertionError("the last attempt returns or raises")


def _is_transient(response: httpx.Response) -> bool:
    if response.status_code == httpx.codes.CONFLICT:
        # The first sending of this request broke off for us, but the service is still at it.
        return b'"idempotency_in_flight"' in response.content
    return response.status_code in _TRANSIENT


def raise_refusal(response: httpx.Response) -> None:
    """Raise ApiError with what the service said, or Unreachable; nothing for a success."""
    if response.is_success:
        return
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
