"""Stream a multipart upload into the store: each `file` is hashed and staged on the way."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.dependencies import PartsDep
from app.core.blobs import Blobs
from app.core.config import Settings
from app.core.errors import InvalidUpload, MalformedMultipart, TooLarge, UnsupportedMedia
from app.core.storage import StagedBlob
from app.services.strict_json import is_storable
from app.services.uploads import Upload, UploadedFile

# A large model comes in dozens of shards.
MAX_FILES = 64
# Written in a thread in pieces of this size: the event loop waits for no disk, and no thread for a few bytes.
_PIECE_BYTES = 1 << 20
_MAX_NAME_CHARACTERS = 255
# What boundaries and part headers may add to the bytes of the parts.
_OVERHEAD_BYTES = 64 * 1024


async def receive_upload(request: Request, parts: PartsDep) -> AsyncIterator[Upload]:
    """Give the endpoint what was uploaded; whatever it does not commit is gone when it returns."""
    boundary = _read_boundary(request)
    settings = parts.settings
    most = settings.max_upload_bytes + settings.max_manifest_bytes + _OVERHEAD_BYTES
    if int(request.headers.get("Content-Length", "0")) > most:
        raise _too_large(settings)
    with ExitStack() as staged:
        reader = _UploadReader(boundary, parts.store, settings, staged)
        piece = bytearray()
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= _PIECE_BYTES:
                await to_thread.run_sync(reader.feed, bytes(piece))
                piece.clear()
        await to_thread.run_sync(reader.feed, bytes(piece))
        yield reader.finish()


UploadDep = Annotated[Upload, Depends(receive_upload, scope="function")]


class _UploadReader:
    """Parse a body piece by piece; the callbacks of the parser are the methods that start with `on`."""

    def __init__(self, boundary: bytes, store: Blobs, settings: Settings, staged: ExitStack) -> None:
        self._store, self._settings, self._stack = store, settings, staged
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )
        self._field, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._target: bytearray | StagedBlob | None = None
        self._manifest: bytearray | None = None
        self._files: list[UploadedFile] = []
        self._received_bytes = 0
        self._is_complete = False

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body; raises what is wrong with it, StorageFull too."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise MalformedMultipart(f"the body is not multipart/form-data: {error}") from error

    def finish(self) -> Upload:
        """Return what was uploaded once the whole body is there."""
        if not self._is_complete:
            raise MalformedMultipart("the body ends before its last boundary")
        if self._manifest is None:
            raise InvalidUpload("the part `manifest` is missing")
        if not self._files:
            raise InvalidUpload("there is no part `file`")
        return Upload(bytes(self._manifest), tuple(self._files))

    def _on_part_begin(self) -> None:
        self._headers.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = _decode(options.get(b"name", b""))
        if name == "manifest":
            if self._manifest is not None:
                raise InvalidUpload("the part `manifest` comes twice")
            self._manifest = bytearray()
            self._target = self._manifest
        elif name == "file":
            self._target = self._stage(_decode(options.get(b"filename", b"")))
        else:
            raise InvalidUpload(f"there is no part {name[:100]!a}; there are `manifest` and `file`")

    def _stage(self, name: str) -> StagedBlob:
        if not 1 <= len(name) <= _MAX_NAME_CHARACTERS or not is_storable(name) or not name.isprintable():
            raise InvalidUpload(f"a part `file` needs a filename of 1 to {_MAX_NAME_CHARACTERS} characters")
        if len(self._files) == MAX_FILES:
            raise InvalidUpload(f"an upload has at most {MAX_FILES} files")
        staged = self._stack.enter_context(self._store.stage())
        self._files.append(UploadedFile(name, staged))
        return staged

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if isinstance(self._target, bytearray):
            self._target += data[start:end]
            if len(self._target) > self._settings.max_manifest_bytes:
                raise TooLarge(f"a manifest has at most {self._settings.max_manifest_bytes} bytes")
        elif self._target is not None:
            self._received_bytes += end - start
            if self._received_bytes > self._settings.max_upload_bytes:
                raise _too_large(self._settings)
            self._target.write(data[start:end])

    def _on_part_end(self) -> None:
        self._target = None

    def _on_end(self) -> None:
        self._is_complete = True


def _read_boundary(request: Request) -> bytes:
    media_type, options = parse_options_header(request.headers.get("Content-Type"))
    if media_type != b"multipart/form-data":
        found = request.headers.get("Content-Type", "no Content-Type")
        raise UnsupportedMedia(f"expected multipart/form-data, found {found[:100]}")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise MalformedMultipart("Content-Type names no boundary of 1 to 70 characters")
    return boundary


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidUpload("the names of parts and files are UTF-8") from error


def _too_large(settings: Settings) -> TooLarge:
    return TooLarge(f"an upload has at most {settings.max_upload_bytes} bytes")
