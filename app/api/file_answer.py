"""Answer with a stored file: whole or one range of it, with validators and its digest."""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api.answers import matches
from app.api.problems import problem_response
from app.core.blobs import Blobs
from app.core.config import Settings
from app.core.errors import RangeNotSatisfiable
from app.core.storage import BlobDamaged

# A file up to this size is read and checked before the first byte is sent.
_CHECK_FIRST_BYTES = 8 << 20
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class StoredFile:
    name: str
    media_type: str
    sha256: str
    size_bytes: int


def file_answer(request: Request, file: StoredFile, blobs: Blobs, settings: Settings) -> Response:
    """Answer a GET or HEAD: 200, 206, 304, 307 or 416 (RFC 9110, sections 13 to 15).

    Wrong bytes are never a good answer: raises BlobDamaged or BlobMissing, or breaks the connection off
    before the last byte. Behind a redirect it is the client that compares `Repr-Digest`.
    """
    tag = f'"{file.sha256}"'
    headers = _describe(file, tag)
    if matches(request.headers.get("If-None-Match"), tag):
        return Response(status_code=304, headers=headers)
    _check_size(file, blobs)
    if (redirect := _redirect(request, file, blobs, settings)) is not None:
        return Response(None, 307, headers | redirect)
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
    start, end = part or (0, file.size_bytes)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    status = 200 if part is None else 206
    if file.size_bytes <= _CHECK_FIRST_BYTES:
        return Response(blobs.read(file.sha256)[start:end], status, headers, file.media_type)
    return StreamingResponse(_read_large(file, blobs, part), status, headers, file.media_type)


def repr_digest(sha256: str) -> str:
    """Return the digest of the whole representation as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _describe(file: StoredFile, tag: str) -> dict[str, str]:
    return {
        "ETag": tag,
        "Repr-Digest": repr_digest(file.sha256),
        "Accept-Ranges": "bytes",
        # A job that is retried writes other bytes under the same name: what is kept is asked about.
        "Cache-Control": "private, no-cache",
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


def _check_size(file: StoredFile, blobs: Blobs) -> None:
    found = blobs.size(file.sha256)
    if found != file.size_bytes:
        blobs.quarantine(file.sha256)
        raise BlobDamaged(
            f"{file.name} has {found} bytes in the store, expected {file.size_bytes}; they are set aside"
        )


def _redirect(request: Request, file: StoredFile, blobs: Blobs, settings: Settings) -> dict[str, str] | None:
    """Return the headers of a redirect to the store, for what is large enough to spare us its bytes."""
    if file.size_bytes < settings.download_redirect_bytes:
        return None
    url = blobs.signed_url(
        file.sha256,
        request.method,
        expires_s=settings.download_url_ttl_s,
        filename=file.name,
        media_type=file.media_type,
    )
    # The URL runs out: what a cache keeps is the file behind it, never the way to it.
    return None if url is None else {"Location": url, "Cache-Control": "no-store"}


def _read_large(file: StoredFile, blobs: Blobs, part: tuple[int, int] | None) -> Iterator[bytes]:
    if part is None:
        return blobs.iter_verified(file.sha256)
    # A part cannot be compared with a digest, so the whole file is, once for as long as it stays as it is.
    blobs.verify(file.sha256)
    return blobs.iter_range(file.sha256, *part)
