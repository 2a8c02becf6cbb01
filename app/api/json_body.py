"""Read a JSON body as bytes: its media type checked, its length bounded."""

from typing import Annotated

from fastapi import Depends, Request

from app.core.errors import TooLarge, UnsupportedMedia

MAX_JSON_BYTES = 1024 * 1024


async def read_json_body(request: Request) -> bytes:
    """Return the body; raises UnsupportedMedia or TooLarge. What it says is checked by a service."""
    media_type, _, parameters = request.headers.get("Content-Type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "").removeprefix("charset=")
    if media_type.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        found = request.headers.get("Content-Type", "no Content-Type")
        raise UnsupportedMedia(f"expected application/json in UTF-8, found {found[:100]}")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("a compressed body is not taken")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise TooLarge(f"a JSON body has at most {MAX_JSON_BYTES} bytes")
    return bytes(body)


JsonBody = Annotated[bytes, Depends(read_json_body)]


async def read_optional_json_body(request: Request) -> bytes:
    """Return the body, empty where none was sent."""
    has_body = request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers
    return await read_json_body(request) if has_body else b""


OptionalJsonBody = Annotated[bytes, Depends(read_optional_json_body)]
