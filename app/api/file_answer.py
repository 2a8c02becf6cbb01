"""Answer with a stored file: whole or one range of it, with validators and its digest."""

import base64
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import anyio
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api.answers import matches
from app.api.problems import problem_response
from app.core.errors import RangeNotSatisfiable

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class StoredFile:
    path: Path
    name: str
    media_type: str
    sha256: str
    size_bytes: int


def file_answer(request: Request, file: StoredFile) -> Response:
    """Answer a GET or HEAD: 200, 206, 304 or 416 (RFC 9110, sections 13 and 14)."""
    tag = f'"{file.sha256}"'
    headers = _describe(file, tag)
    if matches(request.headers.get("If-None-Match"), tag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return Response(None, 200, headers | {"Content-Length": str(file.size_bytes)}, file.media_type)
    wanted = request.headers.get("Range")
    # Another file than the client has the first half of is sent whole.
    if request.headers.get("If-Range", tag) != tag:
        wanted = None
    try:
        part = _read_range(wanted, file.size_bytes)
    except RangeNotSatisfiable as error:
        unsatisfied = {"Content-Range": f"bytes */{file.size_bytes}", "Accept-Ranges": "bytes"}
        return problem_response(request, error, headers=unsatisfied)
    if part is None:
        return _stream(file, 0, file.size_bytes, 200, headers)
    start, end = part
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    return _stream(file, start, end, 206, headers)


def repr_digest(sha256: str) -> str:
    """Return the digest of the whole representation as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _describe(file: StoredFile, tag: str) -> dict[str, str]:
    return {
        "ETag": tag,
        "Repr-Digest": repr_digest(file.sha256),
        "Accept-Ranges": "bytes",
        # A job's artifact never changes under its name.
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": _disposition(file.name),
        "X-Content-Type-Options": "nosniff",
    }


def _disposition(name: str) -> str:
    plain = quote(name, safe="!#$&+-.^_`|~")
    return f'attachment; filename="{name}"' if plain == name else f"attachment; filename*=UTF-8''{plain}"


def _read_range(wanted: str | None, size: int) -> tuple[int, int] | None:
    """Return begin and end (exclusive) of a single range, None to send all; raises RangeNotSatisfiable.

    Several ranges, other units and what cannot be read are ignored, as the standard allows.
    """
    found = _RANGE.fullmatch(wanted or "")
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(size - int(found[2]), 0), size
        is_possible = int(found[2]) > 0 and size > 0
    else:
        start, end = int(found[1]), min(int(found[2] or size) + 1, size)
        if found[2] and int(found[2]) < start:
            return None
        is_possible = start < size
    if not is_possible:
        raise RangeNotSatisfiable(f"the file has {size} bytes; the range {wanted} lies outside")
    return start, end


def _stream(file: StoredFile, start: int, end: int, status: int, headers: dict[str, str]) -> Response:
    sized = headers | {"Content-Length": str(end - start)}
    return StreamingResponse(_read(file.path, start, end), status, sized, file.media_type)


async def _read(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        await file.seek(start)
        while start < end:
            chunk = await file.read(min(_CHUNK_BYTES, end - start))
            if not chunk:
                raise EOFError(f"{path.name} is shorter than its row says")
            start += len(chunk)
            yield chunk
