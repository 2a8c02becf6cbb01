"""Follow the service's redirect to a file in its store, which is never sent the client's key."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address

import httpx


@contextmanager
def stream_file(http: httpx.Client, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """Give the answer to a GET: the service's own, or that of the URL it redirects to.

    The URL is its own permission. When the store refuses it, it has run out while we waited: that is raised
    as a broken connection, so that the caller asks the service for a new one.
    """
    with http.stream("GET", url, headers=headers) as answer:
        if not answer.has_redirect_location:
            yield answer
            return
        location = answer.url.join(answer.headers["Location"])
    if location.scheme not in ("http", "https"):
        raise httpx.RemoteProtocolError(f"expected a redirect to a file, found {str(location)[:200]}")
    # The store knows its file by other tags; whether the halves fit is told by the digest at the end.
    known = {name: value for name, value in headers.items() if name == "Range"}
    with (
        httpx.Client(timeout=http.timeout, trust_env=not is_this_machine(str(location))) as store,
        store.stream("GET", location, headers=known) as answer,
    ):
        if answer.status_code == httpx.codes.FORBIDDEN:
            raise httpx.RemoteProtocolError("the store refuses the URL that the service gave")
        yield answer


def is_this_machine(url: str) -> bool:
    """Tell whether a URL leads to the machine that we run on: no proxy is ever between."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
